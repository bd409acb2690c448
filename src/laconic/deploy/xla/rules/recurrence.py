"""Recurrent layers, as one loop a direction. L length, B batch, I input size, H size of a state, D directions, N layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from laconic.deploy.xla.late import jnp, lax, nn
from laconic.deploy.xla.rules.table import Call, lowers

Step = Callable[..., Any]


def _lstm_step(call: Call, x: Any, state: Any, hidden_weight: Any, hidden_bias: Any, project: Any) -> Any:
    hidden, cell = state
    enter, forget, new, leave = jnp.split(x + _times(call, hidden, hidden_weight) + hidden_bias, 4, axis=-1)
    cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(new)
    hidden = nn.sigmoid(leave) * jnp.tanh(cell)
    return (hidden if project is None else _times(call, hidden, project)), cell


def _gru_step(call: Call, x: Any, state: Any, hidden_weight: Any, hidden_bias: Any, project: Any) -> Any:
    (hidden,) = state
    (xr, xz, xn), (hr, hz, hn) = (jnp.split(one, 3, axis=-1) for one in (x, _times(call, hidden, hidden_weight) + hidden_bias))
    update = nn.sigmoid(xz + hz)
    return ((1 - update) * jnp.tanh(xn + nn.sigmoid(xr + hr) * hn) + update * hidden,)


def _plain_step(activation: str) -> Step:
    def step(call: Call, x: Any, state: Any, hidden_weight: Any, hidden_bias: Any, project: Any) -> Any:
        total = x + _times(call, state[0], hidden_weight) + hidden_bias
        return (jnp.tanh(total) if activation == "tanh" else jnp.maximum(total, 0),)

    return step


def _times(call: Call, x: Any, weight: Any) -> Any:
    """Multiply (…, I) by (O, I)."""
    how = call.operands(x, weight)
    x, weight = how.pop("operands")
    return jnp.matmul(x, weight.T, **how)


def _direction(call: Call, step: Step, x: Any, state: tuple[Any, ...], weights: Sequence[Any], backwards: bool) -> Any:
    """Run one direction of a layer over x (L, B, I): its states (L, B, H), and the last ones."""
    kernel, recurrent, bias, hidden_bias, project = weights
    entered = _times(call, x, kernel) + bias

    def once(carry: Any, now: Any) -> Any:
        carry = step(call, now, carry, recurrent, hidden_bias, project)
        return carry, carry[0]

    last, states = lax.scan(once, state, entered, reverse=backwards)
    return states, last


def _run(
    call: Call, step: Step, x: Any, states: tuple[Any, ...], params: Sequence[Any], biases: bool, layers: int, both: bool, first: bool
) -> Any:
    x = jnp.swapaxes(x, 0, 1) if first else x
    directions = 2 if both else 1
    own = len(params) // (layers * directions)
    lasts = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            given = list(params[place * own : (place + 1) * own])
            project = given.pop() if own in (3, 5) else None
            weights = [*given[:2], *(given[2:4] if biases else (0.0, 0.0)), project]
            found, last = _direction(call, step, x, tuple(state[place] for state in states), weights, direction == 1)
            outputs.append(found)
            lasts.append(last)
        x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
    return [jnp.swapaxes(x, 0, 1) if first else x, *(jnp.stack(kind) for kind in zip(*lasts, strict=True))]


@lowers("lstm.input")
def lstm(
    call: Call,
    x: Any,
    states: Sequence[Any],
    params: Sequence[Any],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    first: bool,
) -> Any:
    """Run LSTMs: the sequence, the last hidden states, the last cells."""
    return _run(call, _lstm_step, x, tuple(states), params, biases, layers, both, first)


def _one(step: Step) -> Callable[..., Any]:
    def row(
        call: Call,
        x: Any,
        state: Any,
        params: Sequence[Any],
        biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        both: bool,
        first: bool,
    ) -> Any:
        return _run(call, step, x, (state,), params, biases, layers, both, first)

    return row


for _name, _step in (("gru.input", _gru_step), ("rnn_tanh.input", _plain_step("tanh")), ("rnn_relu.input", _plain_step("relu"))):
    lowers(_name)(_one(_step))

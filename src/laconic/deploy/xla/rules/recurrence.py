"""Recurrent layers, as one loop a direction. L length, B batch, I input size, H size of a state, D directions, N layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from laconic.deploy.xla.late import jnp, lax, nn
from laconic.deploy.xla.rules.table import Call, Row, lowers

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


def _layer(step: Step) -> Row:
    """Return the row of a recurrent operator of PyTorch, whose loop takes this step."""

    def row(
        call: Call, x: Any, states: Any, params: Sequence[Any], biases: bool, layers: int, _: float, train: bool, both: bool, first: bool
    ) -> Any:
        """Return the sequence, and the last states of each kind."""
        starts = states if isinstance(states, (tuple, list)) else (states,)
        x = jnp.swapaxes(x, 0, 1) if first else x
        directions = 2 if both else 1
        own = len(params) // (layers * directions)
        lasts = []
        for layer in range(layers):
            outputs = []
            for place in range(layer * directions, (layer + 1) * directions):
                weights = _weights(params[place * own : (place + 1) * own], biases)
                found, last = _direction(call, step, x, tuple(start[place] for start in starts), weights, place % directions == 1)
                outputs.append(found)
                lasts.append(last)
            x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
        return [jnp.swapaxes(x, 0, 1) if first else x, *(jnp.stack(kind) for kind in zip(*lasts, strict=True))]

    return row


def _weights(params: Sequence[Any], biases: bool) -> list[Any]:
    """Return kernel, recurrent kernel, both biases and the projection of one direction; zeros and None for what it has not."""
    given = list(params)
    project = given.pop() if len(given) in (3, 5) else None
    return [*given[:2], *(given[2:4] if biases else (0.0, 0.0)), project]


_STEPS = {
    "lstm.input": _lstm_step,
    "gru.input": _gru_step,
    "rnn_tanh.input": _plain_step("tanh"),
    "rnn_relu.input": _plain_step("relu"),
}
for _name, _step in _STEPS.items():
    lowers(_name)(_layer(_step))

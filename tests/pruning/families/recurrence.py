"""Recurrent networks and tables."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.pruning.nets import Net, case, parameter, words

Make = Callable[..., Net]


def steps(batch: int) -> tuple[Tensor, ...]:
    """(B, L, C). A trace goes through every step, so there are few."""
    return (torch.randn(batch, 3, 5),)


def recurrent(kind: type[nn.RNNBase], state: str = "none", first: bool = True, proj: int = 0, **options: object) -> Make:
    """A layer before the network and one behind it; the first state is left out, made of zeros or learned."""
    both = 2 if options.get("bidirectional") else 1
    places = int(options.get("num_layers", 1)) * both  # type: ignore[call-overload]

    def make(i: int = 3, n: int = 4) -> Net:
        shown = proj or n
        extra = {"proj_size": proj} if proj else {}

        def forward(m: Net, x: Tensor) -> Tensor:
            x = m.a(x)
            if state == "none":
                return m.b(m.rnn(x)[0])
            batch = x.shape[0] if first else x.shape[1]
            h = torch.zeros(places, batch, shown) if state == "zeros" else m.h.expand(-1, batch, -1).contiguous()
            return m.b(m.rnn(x, (h, x.new_zeros(places, batch, n)) if kind is nn.LSTM else h)[0])

        net = {"a": nn.Linear(5, i), "rnn": kind(i, n, batch_first=first, **options, **extra), "b": nn.Linear(both * shown, 2)}
        return Net(forward, **net, **({"h": parameter(places, 1, shown)} if state == "learned" else {}))

    return make


def units(gates: int, layers: int = 1, both: bool = False, bias: bool = True) -> str:
    """The slots of the hidden units, but for what reads them behind."""
    times, double = (f"*{gates}" if gates > 1 else ""), ("*2" if both else "")
    found = []
    for layer in range(layers):
        for end in ("", "_reverse") if both else ("",):
            at = f"_l{layer}{end}"
            found += [f"rnn.weight_ih{at}:0{times}", f"rnn.weight_hh{at}:0{times}", f"rnn.weight_hh{at}:1"]
            found += [f"rnn.bias_ih{at}:0{times}", f"rnn.bias_hh{at}:0{times}"] if bias else []
            found += [f"rnn.weight_ih{at}:1{double}"] if layer else []
    return "4 " + " ".join(found)


BEFORE = "3 a.w:0 a.b:0 rnn.weight_ih_l0:1"
BOTH = f"{BEFORE} rnn.weight_ih_l0_reverse:1"


def last_state(kind: type[nn.RNNBase]) -> Make:
    """The head reads the state of both layers at the end."""

    def make(n: int = 4) -> Net:
        def forward(m: Net, x: Tensor) -> Tensor:
            h = torch.zeros(2, x.shape[0], n)
            found = m.rnn(x, (h, h) if kind is nn.LSTM else h)[1]
            return m.b((found[0] if kind is nn.LSTM else found).transpose(0, 1).reshape(-1, 2 * n))

        return Net(forward, rnn=kind(5, n, num_layers=2, batch_first=True), b=nn.Linear(2 * n, 2))

    return make


def twice(n: int = 4) -> Net:
    """One network, run forth and then once more from where it ended."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y, h = m.rnn(x)
        return m.b(y + m.rnn(x.flip(1), h)[0])

    return Net(forward, rnn=nn.GRU(5, n, batch_first=True), b=nn.Linear(n, 2))


def given() -> Net:
    return Net(lambda m, x, h: m.b(m.rnn(x, h)[0]), rnn=nn.GRU(5, 4, batch_first=True), b=nn.Linear(4, 2))


def with_state(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, 5), torch.randn(1, batch, 4))


def tied(n: int = 6) -> Net:
    layers = {"embed": nn.Embedding(11, n), "mix": nn.Linear(n, n), "out": nn.Linear(n, 11, bias=False)}
    net = Net(lambda m, i: m.out(m.mix(m.embed(i)).relu() + m.embed(i)), **layers)
    net.out.weight = net.embed.weight
    return net


def positions(n: int = 6) -> Net:
    """Words, positions, a class token in front."""

    def forward(m: Net, i: Tensor) -> Tensor:
        x = m.words(i) + m.places(torch.arange(i.shape[1]))
        x = torch.cat([m.token.expand(i.shape[0], -1, -1), x], 1) + m.more
        return m.b(x[:, 0])

    tables = {"words": nn.Embedding(11, n), "places": nn.Embedding(7, n), "token": parameter(1, 1, n), "more": parameter(1, 8, n)}
    return Net(forward, **tables, b=nn.Linear(n, 2))


def unrolled(kind: type[nn.RNNCellBase]) -> Make:
    """Two steps of a cell by hand, from a first state of zeros."""

    def make(i: int = 3, n: int = 4) -> Net:
        def forward(m: Net, x: Tensor) -> Tensor:
            x = m.a(x)
            state = m.cell(x[:, 0])
            state = m.cell(x[:, 1], state)
            return m.b(state[0] if isinstance(state, tuple) else state)

        return Net(forward, a=nn.Linear(5, i), cell=kind(i, n), b=nn.Linear(n, 2))

    return make


def bags(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(m.table(x)), table=nn.EmbeddingBag(11, n, mode="mean"), b=nn.Linear(n, 2))


CELLS = {"lstm": (nn.LSTMCell, 4), "gru": (nn.GRUCell, 3), "rnn": (nn.RNNCell, 1)}
CASES = {
    "lstm": case(recurrent(nn.LSTM), steps, BEFORE, units(4) + " b.w:1"),
    "lstm, length first": case(
        recurrent(nn.LSTM, first=False),
        lambda batch: (torch.randn(3, batch, 5),),
        BEFORE,
        units(4) + " b.w:1",
        batched=False,
        dynamic=(("inputs_0", ((1, "batch"),)),),
    ),
    "lstm, zeros": case(recurrent(nn.LSTM, "zeros"), steps, BEFORE, units(4) + " b.w:1"),
    "lstm, both ways": case(recurrent(nn.LSTM, num_layers=2, bidirectional=True), steps, BOTH, units(4, 2, True) + " b.w:1*2"),
    "lstm, both ways, zeros": case(
        recurrent(nn.LSTM, "zeros", num_layers=2, bidirectional=True), steps, BOTH, units(4, 2, True) + " b.w:1*2"
    ),
    "lstm, no bias": case(recurrent(nn.LSTM, bias=False), steps, BEFORE, units(4, bias=False) + " b.w:1"),
    "lstm, projected": case(
        lambda: recurrent(nn.LSTM, "zeros", num_layers=2, proj=2)(),
        steps,
        BEFORE,
        "2 rnn.weight_hh_l0:1 rnn.weight_hh_l1:1 rnn.weight_ih_l1:1 rnn.weight_hr_l0:0 rnn.weight_hr_l1:0 b.w:1",
    ),
    "gru": case(recurrent(nn.GRU), steps, BEFORE, units(3) + " b.w:1"),
    "gru, both ways, zeros": case(
        recurrent(nn.GRU, "zeros", num_layers=2, bidirectional=True), steps, BOTH, units(3, 2, True) + " b.w:1*2"
    ),
    "gru, learned state": case(recurrent(nn.GRU, "learned"), steps, BEFORE, units(3) + " b.w:1 h:2"),
    "gru, learned state, 2 layers": case(recurrent(nn.GRU, "learned", num_layers=2), steps, BEFORE, units(3, 2) + " b.w:1 h:2"),
    "gru, twice": case(twice, steps, units(3) + " b.w:1"),
    "gru, state is an input": case(given, with_state, dynamic=(("inputs_1", ((1, "batch"),)),)),
    "gru, last state": case(last_state(nn.GRU), steps, units(3, 2) + " b.w:1*2"),
    "lstm, last state": case(last_state(nn.LSTM), steps, units(4, 2) + " b.w:1*2"),
    "rnn": case(recurrent(nn.RNN), steps, BEFORE, units(1) + " b.w:1"),
    "rnn, relu": case(recurrent(nn.RNN, nonlinearity="relu", num_layers=2), steps, BEFORE, units(1, 2) + " b.w:1"),
    "embedding": case(lambda n=6: Net(lambda m, i: m.b(m.e(i)), e=nn.Embedding(11, n), b=nn.Linear(n, 2)), words, "6 e.w:1 b.w:1"),
    "embedding, tied": case(tied, words, "6 out.w:1 mix.w:0 mix.w:1 mix.b:0"),
    "embedding, positions": case(positions, words, "6 words.w:1 places.w:1 token:2 more:2 b.w:1"),
    **{
        f"{name} cell": case(
            unrolled(kind),
            steps,
            "3 a.w:0 a.b:0 cell.weight_ih:1",
            "4 b.w:1 cell.weight_hh:1 "
            + " ".join(f"cell.{part}:0" + f"*{gates}" * (gates > 1) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        )
        for name, (kind, gates) in CELLS.items()
    },
    "embedding bag": case(bags, words, "6 table.w:1 b.w:1"),
}

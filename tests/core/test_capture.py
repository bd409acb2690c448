from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.errors import BadInput, CaptureError
from laconic.core.graph import module_path
from laconic.core.program import Program
from tests.core.models import Answer, ConvNet, FixesBatch, Nested, ReadsValue, Recurrent, Tied


@pytest.mark.parametrize("batch", [1, 5])
def test_program_equals_its_module_at_other_batch_sizes(batch: int) -> None:
    net = ConvNet().eval()
    program = capture(net, torch.randn(1, 1, 12, 12))
    x = torch.randn(batch, 1, 12, 12)
    assert torch.equal(program(x), net(x))
    assert program.inputs[0].shape == ("batch", 1, 12, 12)
    assert program.outputs[0].shape == ("batch", 10)


def test_names_of_the_state_dict_are_the_modules() -> None:
    net = ConvNet()
    program = capture(net, torch.randn(2, 1, 12, 12))
    assert set(program.state_dict()) == set(net.state_dict())
    program.load_state_dict(net.state_dict())


def test_capture_leaves_the_module_alone() -> None:
    net = ConvNet().train()
    net.layers[1].eval()
    before = copy.deepcopy(net.state_dict())
    program = capture(net, torch.randn(2, 1, 12, 12))
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.zero_()
    assert net.training
    assert not net.layers[1].training
    assert "forward" not in net.__dict__
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def sgd(model: nn.Module, inputs: list[torch.Tensor], steps: int = 20) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        model(inputs[step % len(inputs)]).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("net", "shape"),
    [(ConvNet(), (4, 1, 12, 12)), (Recurrent(nn.LSTM), (4, 7, 6)), (Recurrent(nn.GRU), (4, 7, 6))],
    ids=["conv", "lstm", "gru"],
)
def test_trains_bit_equal_to_its_module(net: nn.Module, shape: tuple[int, ...]) -> None:
    program = capture(net, torch.randn(*shape))
    batches = [torch.randn(*shape) for _ in range(3)]
    sgd(net, batches)
    sgd(program, batches)
    for name, value in net.state_dict().items():
        assert torch.equal(value, program.state_dict()[name]), name


def test_train_mode_turns_dropout_and_batch_statistics_on_and_off() -> None:
    program = capture(ConvNet(dropout=0.5), torch.randn(4, 1, 12, 12))
    x = torch.randn(4, 1, 12, 12)
    quiet = program(x)
    assert torch.equal(quiet, program(x))
    mean = program.state_dict()["layers.0.bn.running_mean"].clone()
    program.train()
    assert not torch.equal(program(x), program(x))
    assert not torch.equal(program.state_dict()["layers.0.bn.running_mean"], mean)
    assert program.state_dict()["layers.0.bn.num_batches_tracked"] == 2
    program.load_state_dict(capture(ConvNet(), x).state_dict())
    assert torch.equal(program.eval()(x), program(x))


def test_recurrent_dropout_follows_the_mode() -> None:
    program = capture(Recurrent(dropout=0.5), torch.randn(2, 7, 6))
    x = torch.randn(3, 7, 6)
    assert torch.equal(program(x), program(x))
    assert not torch.equal(program.train()(x), program(x))


@pytest.mark.parametrize("kind", ["dataclass", "tuple", "dict", "namedtuple", "tensor"])
def test_nested_inputs_and_outputs(kind: str) -> None:
    net = Nested(kind).eval()
    batch = {"a": torch.randn(3, 4), "deep": {"b": torch.randn(3, 4)}}
    program = capture(net, ({"a": torch.randn(2, 4), "deep": {"b": torch.randn(2, 4)}},))
    found, wanted = program(batch), net(batch)
    pairs: dict[str, list[tuple[Any, Any]]] = {
        "dataclass": []
        if kind != "dataclass"
        else [(found.logits, wanted.logits), (found["extras"][1], wanted.extras[1]), (found.version, 3)],
        "tuple": [] if kind != "tuple" else [(found[0], wanted[0]), (found[1][0], wanted[1][0]), (found[1][1], None)],
        "dict": [] if kind != "dict" else [(found["logits"], wanted["logits"])],
        "namedtuple": [] if kind != "namedtuple" else [(found.left, wanted.left), (found[1], wanted[1])],
        "tensor": [(found, wanted)],
    }
    assert pairs[kind]
    for mine, theirs in pairs[kind]:
        assert torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs
    assert [spec.name for spec in program.inputs] == ["batch.a", "batch.deep.b"]


def test_no_grad_regions_keep_their_meaning() -> None:
    program = capture(Nested("dataclass"), ({"a": torch.randn(2, 4), "deep": {"b": torch.randn(2, 4)}},))
    out = program({"a": torch.randn(2, 4, requires_grad=True), "deep": {"b": torch.randn(2, 4)}})
    assert out.logits.requires_grad
    assert not out.extras[0].requires_grad
    assert isinstance(Nested("dataclass")({"a": torch.randn(2, 4), "deep": {"b": torch.randn(2, 4)}}), Answer)


def test_keyword_inputs_by_name_or_position_and_constants() -> None:
    net = Nested("tensor").eval()
    batch = {"a": torch.randn(2, 4), "deep": {"b": torch.randn(2, 4)}}
    program = capture(net, {"batch": batch, "scale": 2.0, "mask": torch.ones(2, 2)})
    assert torch.equal(program(batch=batch, scale=2.0, mask=torch.ones(2, 2)), net(batch, scale=2.0, mask=torch.ones(2, 2)))
    assert torch.equal(program(batch, mask=torch.zeros(2, 2)), torch.zeros(2, 2))
    with pytest.raises(BadInput, match=r"'scale' was 2\.0"):
        program(batch, scale=3.0, mask=torch.ones(2, 2))
    with pytest.raises(BadInput, match="'mask' is missing"):
        program(batch)
    with pytest.raises(BadInput, match="no input 'masks'"):
        program(batch, masks=torch.ones(2, 2))
    with pytest.raises(BadInput, match=r"'batch\.deep' lacks the entry 'b'"):
        program({"a": batch["a"], "deep": {}}, mask=torch.ones(2, 2))


def test_length_is_dynamic_when_asked() -> None:
    net = Tied().eval()
    program = capture(net, torch.ones(2, 7, dtype=torch.long), dynamic={"ids": {1: "length"}})
    ids = torch.randint(0, 11, (3, 5))
    assert program.inputs[0].shape == ("batch", "length")
    assert torch.equal(program(ids), net(ids))


def test_dynamic_of_an_unknown_input_is_refused() -> None:
    with pytest.raises(BadInput, match="'tokens', which the model does not have; it has ids"):
        capture(Tied(), torch.ones(2, 7, dtype=torch.long), dynamic={"tokens": {1: "length"}})


def test_tied_weights_stay_tied() -> None:
    program = capture(Tied(), torch.ones(2, 7, dtype=torch.long))
    for twin in (program, copy.deepcopy(program)):
        tensors = dict(twin.named_parameters(remove_duplicate=False))
        assert tensors["embed.weight"] is tensors["out.weight"]
        assert len(list(twin.parameters())) == 1


def test_deepcopy_is_equal_and_independent() -> None:
    program = capture(ConvNet(), torch.randn(2, 1, 12, 12)).train()
    twin = copy.deepcopy(program)
    assert twin.training
    assert twin.fingerprint() == program.fingerprint()
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert twin.fingerprint() != program.fingerprint()


def test_module_paths_are_kept_on_nodes() -> None:
    program = capture(ConvNet(), torch.randn(2, 1, 12, 12))
    paths = {module_path(node) for node in program.graph.nodes if str(node.target).startswith("aten.conv")}
    assert paths == {"stem", "layers.0.conv", "layers.1.conv"}


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (ReadsValue(), ["operator aten.item", "models.py", "if x.sum() > 0", "torch.where"]),
        (FixesBatch(), ["dynamic_batch=False"]),
    ],
    ids=["value", "batch"],
)
def test_failures_name_the_operator_the_line_and_the_mend(net: nn.Module, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(net, torch.randn(2, 4))
    for word in words:
        assert word in str(caught.value)
    assert capsys.readouterr() == ("", "")


class Causal(nn.Module):
    """A decoder layer under a causal mask, which PyTorch recognizes by its values unless it is told."""

    def __init__(self, **told: bool) -> None:
        super().__init__()
        self.decoder, self.told = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 1), told

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x, x, tgt_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]), **self.told)


def test_a_mask_whose_values_are_compared_is_named_with_its_mend() -> None:
    x = torch.randn(2, 3, 4)
    with pytest.raises(CaptureError, match=r"causal.*tgt_is_causal=True"):
        capture(Causal(), x)
    net = Causal(tgt_is_causal=True).eval()
    torch.testing.assert_close(capture(net, x)(x), net(x))


def test_a_fixed_batch_can_be_captured_on_request() -> None:
    program = capture(FixesBatch(), torch.randn(2, 4), dynamic_batch=False)
    assert program.inputs[0].shape == (2, 4)
    assert program(torch.ones(2, 4)).shape == (2, 4)


@pytest.mark.parametrize(
    ("example", "words"),
    [(({"a": 1},), "no tensor"), ((torch.ones(1), torch.ones(1), torch.ones(1)), "cannot be called"), ((object(),), "neither a tensor")],
    ids=["no-tensor", "too-many", "object"],
)
def test_bad_examples(example: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        capture(nn.Linear(4, 2), example)


def test_moves_to_another_dtype_like_a_module() -> None:
    program = capture(ConvNet(), torch.randn(2, 1, 12, 12)).double()
    assert program(torch.randn(2, 1, 12, 12, dtype=torch.float64)).dtype == torch.float64


def test_moves_devices_with_its_constants() -> None:
    program = capture(Recurrent(), torch.randn(2, 7, 6)).to("meta")
    assert program(torch.empty(3, 7, 6, device="meta")).shape == (3, 4)
    assert isinstance(program, Program)


class State(nn.Module):
    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(6, 8, num_layers=2, batch_first=not first), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = self.rnn(x, h)
        return self.head(y), h


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("first", [False, True], ids=["batch-first", "time-first"])
def test_the_batch_is_the_axis_that_is_called_so(batch: int, first: bool) -> None:
    net = State(first).eval()
    dynamic = {"h": {1: "batch"}, **({"x": {1: "batch"}} if first else {})}
    shape = (5, batch, 6) if first else (batch, 5, 6)
    program = capture(net, (torch.randn(shape), torch.zeros(2, batch, 8)), dynamic=dynamic)
    assert program.inputs[1].shape == (2, "batch", 8)
    assert program.outputs[1].shape == (2, "batch", 8)
    for n in (1, 3):
        x, h = torch.randn((5, n, 6) if first else (n, 5, 6)), torch.randn(2, n, 8)
        for mine, theirs in zip(program(x, h), net(x, h), strict=True):
            torch.testing.assert_close(mine, theirs)


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight


def test_an_input_of_the_same_size_can_be_left_without_a_batch() -> None:
    program = capture(Scaled(), (torch.randn(4, 4), torch.randn(4, 4)), dynamic={"weight": {}})
    assert [spec.shape for spec in program.inputs] == [("batch", 4), (4, 4)]


def test_a_named_dimension_of_one_is_dynamic_too() -> None:
    net = Tied().eval()
    program = capture(net, torch.ones(1, 1, dtype=torch.long), dynamic={"ids": {-1: "length"}})
    ids = torch.randint(0, 11, (3, 5))
    assert torch.equal(program(ids), net(ids))


def test_different_sizes_called_batch_are_refused() -> None:
    with pytest.raises(BadInput, match="different sizes 'batch': 3, 4"):
        capture(State(), (torch.randn(3, 5, 6), torch.zeros(2, 4, 8)), dynamic={"x": {0: "batch"}, "h": {1: "batch"}})


def test_another_number_than_the_fixed_one_is_refused() -> None:
    program = capture(FixesBatch(), torch.randn(2, 4), dynamic_batch=False)
    assert program.interface.fixed_batch == 2
    with pytest.raises(BadInput, match=r"takes exactly 2 examples .* 3 were given.*batch_size=2"):
        program(torch.randn(3, 4))
    assert capture(nn.Linear(4, 2), torch.randn(2, 4)).interface.fixed_batch is None

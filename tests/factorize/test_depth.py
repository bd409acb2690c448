from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import laconic as lc
from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.core.graph import module_outputs
from laconic.core.program import Program
from laconic.factorize.depth import DropBlocks, _leaving, drop_blocks
from laconic.tasks.data import ArrayDataset
from laconic.tasks.models import DataShape, build
from tests.core.models import ConvNet

IDS = {"input_ids": torch.arange(14).view(2, 7), "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}


def resnet20() -> nn.Module:
    return build("resnet20", DataShape("image", (3, 16, 16), 5))


def texts(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers", reason="needs the hf extra")
        config = getattr(transformers, f"{name}Config")(vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options)
        return getattr(transformers, f"{name}ForSequenceClassification")(config)

    return make


def images(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers", reason="needs the hf extra")
        return getattr(transformers, f"{name}ForImageClassification")(getattr(transformers, f"{name}Config")(**options))

    return make


BERT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
DISTIL = {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 16}
# net -> how it is made, an example, the list of its blocks, those that go of it
NETS: dict[str, tuple[Callable[[], nn.Module], Any, str, list[int]]] = {
    "bert": (texts("Bert", **BERT), IDS, "bert.encoder.layer", [1, 3]),
    "distilbert": (texts("DistilBert", **DISTIL), IDS, "distilbert.transformer.layer", [1, 3]),
    "gpt2": (texts("GPT2", n_embd=16, n_layer=4, n_head=2, n_positions=16, use_cache=False), IDS, "transformer.h", [1, 3]),
    "vit": (
        images("ViT", hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4),
        {"pixel_values": torch.randn(2, 3, 16, 16)},
        "vit.layers",
        [1],
    ),
    "convnext": (
        images("ConvNext", hidden_sizes=[8, 16], depths=[1, 4], num_stages=2, image_size=32),
        {"pixel_values": torch.randn(2, 3, 32, 32)},
        "convnext.encoder.stages.1.layers",
        [1, 3],
    ),
    "swin": (
        images("Swin", image_size=32, patch_size=2, embed_dim=8, depths=[1, 4], num_heads=[2, 2], window_size=4),
        {"pixel_values": torch.randn(2, 3, 32, 32)},
        "swin.encoder.layers.1.blocks",
        [1, 3],
    ),
}


@cache
def captured(name: str) -> tuple[nn.Module, Program]:
    """The module and its program. Not to be changed."""
    torch.manual_seed(0)
    if name == "resnet20":
        module, example = resnet20(), torch.randn(2, 3, 16, 16)
    else:
        module, example = NETS[name][0](), NETS[name][1]
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval(), capture(module, example)


def answer(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs["logits"]


@pytest.mark.parametrize("name", NETS)
def test_dropping_every_second_equals_the_model_with_a_shorter_list(name: str) -> None:
    module, program = captured(name)
    _, example, path, gone = NETS[name]
    small, outcome = drop_blocks(program)
    assert outcome.changed["blocks"] == [f"{path}.{index}" for index in gone]
    short = copy.deepcopy(module)
    parent, _, leaf = path.rpartition(".")
    blocks = short.get_submodule(path)
    kept = [block for index, block in enumerate(blocks.children()) if index not in gone]
    setattr(short.get_submodule(parent), leaf, nn.ModuleList(kept))
    inputs = {key: value.repeat(2, *[1] * (value.dim() - 1)) for key, value in example.items()}
    with torch.no_grad():
        ours, theirs, whole = answer(small(**inputs)), answer(short(**inputs)), answer(program(**inputs))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(ours, whole, rtol=1e-2)


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet20"])
def test_what_stays_keeps_its_name_and_what_went_is_gone(name: str) -> None:
    _, program = captured(name)
    small, outcome = drop_blocks(program)
    before, after = program.state_dict(), small.state_dict()
    gone = tuple(f"{path}." for path in outcome.changed["blocks"])
    assert set(after) == {key for key in before if not key.startswith(gone)}
    assert all(torch.equal(after[key], before[key]) for key in after)
    assert outcome.changed["params"] == [sum(p.numel() for p in each.parameters()) for each in (program, small)]
    assert not any(path in module_outputs(small) for path in outcome.changed["blocks"])


def test_of_a_resnet_only_blocks_that_keep_the_shape_go() -> None:
    _, program = captured("resnet20")
    small, outcome = drop_blocks(program, DropBlocks(keep=1))
    assert outcome.changed["blocks"] == ["layer1.1", "layer1.2", "layer2.2", "layer3.2"]
    assert outcome.changed["runs"] == [["layer1.0", "layer1.1", "layer1.2"], ["layer2.1", "layer2.2"], ["layer3.1", "layer3.2"]]
    reasons = {item.name: item.reason for item in outcome.skipped}
    assert set(reasons) == {"layer2.0", "layer3.0"}
    assert "(2, 32, 8, 8) float32 has another shape or type than what it reads: (2, 16, 16, 16) float32" in reasons["layer2.0"]
    module, _ = captured("resnet20")
    short: Any = copy.deepcopy(module)
    short.layer1, short.layer2, short.layer3 = short.layer1[:1], short.layer2[:2], short.layer3[:2]
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(small(x), short(x))


def test_named_blocks_go() -> None:
    _, program = captured("bert")
    path = "bert.encoder.layer"
    small, outcome = drop_blocks(program, DropBlocks(blocks=(f"{path}.3", f"{path}.0", f"{path}.1")))
    assert outcome.changed["blocks"] == [f"{path}.{index}" for index in (0, 1, 3)]
    module, _ = captured("bert")
    short: Any = copy.deepcopy(module)
    short.bert.encoder.layer = short.bert.encoder.layer[2:3]
    with torch.no_grad():
        torch.testing.assert_close(small(**IDS).logits, short(**IDS).logits)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (("layer2.0",), r"'layer2\.0' cannot be skipped: its output \(2, 32, 8, 8\) float32 has another shape"),
        (("layer2.00",), r"no module path 'layer2\.00'\. Did you mean 'layer2\.0'"),
        (("layer1.1", "layer1.1.conv1"), r"'layer1\.1\.conv1' lies inside 'layer1\.1'"),
        (("layer1.1.bn1",), r"^$"),
    ],
    ids=["shape", "unknown", "nested", "any-module"],
)
def test_what_cannot_be_named(blocks: tuple[str, ...], message: str) -> None:
    _, program = captured("resnet20")
    if message == "^$":
        assert drop_blocks(program, DropBlocks(blocks=blocks))[1].changed["blocks"] == list(blocks)
        return
    with pytest.raises(BadInput, match=message):
        drop_blocks(program, DropBlocks(blocks=blocks))


def task_of(n: int = 40) -> lc.Task:
    generator = torch.Generator().manual_seed(0)
    data = ArrayDataset(torch.randn(n, 3, 16, 16, generator=generator).numpy(), (np.arange(n) % 5))
    return lc.Task(resnet20(), data, data, loss=F.cross_entropy)


@pytest.mark.parametrize(("least", "count"), [(0.1, 1), (0.4, 3), (0.99, 4)])
def test_those_go_without_which_the_loss_rises_least(least: float, count: int) -> None:
    """Against trying all of them, by the loss on all examples in one batch; one block of each run stays."""
    _, program = captured("resnet20")
    task, runs = task_of(), [["layer1.0", "layer1.1", "layer1.2"], ["layer2.1", "layer2.2"], ["layer3.1", "layer3.2"]]
    images, labels = next(iter(torch.utils.data.DataLoader(task.train, 40)))  # type: ignore[arg-type]

    def loss(*paths: str) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(drop_blocks(program, DropBlocks(blocks=paths))[0](images), labels))

    gone: list[str] = []
    for _ in range(count):
        left = [path for run in runs for path in run if path not in gone and sum(one not in gone for one in run) > 1]
        gone.append(min(left, key=lambda path: loss(*gone, path)))
    _, outcome = drop_blocks(program, DropBlocks(least=least), task)
    assert sorted(outcome.changed["blocks"]) == sorted(gone)
    assert {run[0].split(".")[0] for run in runs} <= {path.split(".")[0] for run in runs for path in run if path not in gone}


def test_without_a_loss_nobody_knows_which_blocks_do_least() -> None:
    _, program = captured("resnet20")
    with pytest.raises(BadInput, match="measured on train data with the task's loss, and one of them is missing"):
        drop_blocks(program, DropBlocks(least=0.3))
    with pytest.raises(BadInput, match=r"least: 1\.5 must lie between 0 and 1"):
        DropBlocks(least=1.5)
    with pytest.raises(BadInput, match="one of keep, every, blocks and least"):
        DropBlocks(least=0.5, every=2)


class Plain(nn.Module):
    """Alike layers without a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.up(x).relu()
        return x + self.down(inner + memory), inner


class Passing(nn.Module):
    """Each block hands on an inner value beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Inner(), Inner(), Inner()])

    def forward(self, x: Tensor) -> Tensor:
        memory = x * 2
        for block in self.blocks:
            x, memory = block(x, memory)
        return x


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Plain(), "no repeated residual blocks"),
        (nn.Linear(4, 4), "no module path ends in a number"),
        (Passing(), r"blocks\.0: a value inside it \(relu\) is read elsewhere too"),
    ],
    ids=["no-sum", "no-number", "leaks"],
)
def test_where_nothing_repeats_it_says_so(net: nn.Module, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        drop_blocks(capture(net, torch.randn(2, 4)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"keep": 0}, "keep: 0 must be 1 or more"),
        ({"every": 1}, "every: 1 must be 2 or more"),
        ({"every": 2, "blocks": ("a",)}, "one of keep, every, blocks and least"),
    ],
)
def test_options_that_make_no_sense(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        DropBlocks(**config)


def test_keeping_all_is_told() -> None:
    _, program = captured("resnet20")
    with pytest.raises(BadInput, match=r"no block would go: the runs of alike blocks have 3, 2, 2 blocks"):
        drop_blocks(program, DropBlocks(keep=3))


@given(st.integers(1, 40), st.integers(1, 40))
def test_so_many_stay_evenly_and_the_first_among_them(n: int, keep: int) -> None:
    run: list[Any] = list(range(n))
    staying = [index for index in run if index not in _leaving(run, DropBlocks(keep=keep))]
    assert len(staying) == min(n, keep)
    assert staying[0] == 0
    gaps = {b - a for a, b in itertools.pairwise(staying)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_its_program_trains_saves_and_leaves_the_given_one_alone(tmp_path: Path) -> None:
    program = capture(ConvNet(), torch.randn(2, 1, 12, 12))
    before = program.fingerprint()
    small, outcome = drop_blocks(program)
    assert program.fingerprint() == before
    assert outcome.changed["blocks"] == ["layers.1"]
    x = torch.randn(4, 1, 12, 12)
    small.train()(x).sum().backward()
    assert all(p.grad is not None for name, p in small.named_parameters() if not name.startswith("unused"))
    small.eval()
    again = Program.load(small.save(tmp_path / "small.pt2"))
    torch.testing.assert_close(again(x), small(x))
    assert drop_blocks_of_loaded(again) == "there are no repeated residual blocks"


def drop_blocks_of_loaded(program: Program) -> str:
    with pytest.raises(BadInput) as caught:
        drop_blocks(program)
    return str(caught.value)[:37]


class Changing(nn.Module):
    """Blocks that write in place what they computed."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_named_blocks_that_write_in_place_leave_nothing_behind() -> None:
    program = capture(Changing(), torch.randn(2, 4))
    small, _ = drop_blocks(program, DropBlocks(blocks=("blocks.0",)))
    assert sum("relu" in str(node.target) for node in small.graph.nodes) == 1


class SameBlock(nn.Module):
    """A residual block whose kernel keeps the size by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding="same")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x).relu()


def test_blocks_with_kernels_that_keep_the_size_by_name_are_found() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), *(SameBlock() for _ in range(4)), nn.Conv2d(4, 2, 1))
    smaller, _ = drop_blocks(capture(net.eval(), torch.randn(2, 3, 6, 6)), DropBlocks())
    assert sum("conv2d" in str(node.target) for node in smaller.graph.nodes) == 4

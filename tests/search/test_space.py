"""What may be tried: names, settings and what is left of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.records import to_json
from laconic.search.levers import levers


def left(space: lc.SearchSpace) -> set[str]:
    """The labels of all settings that may be tried."""
    return {pick.label for lever in levers().values() for pick in space.picks(lever) if space.left_out(pick) is None}


EVERYTHING = left(lc.SearchSpace())
THREADS = {f"threads={setting.name}" for setting in levers()["threads"].choices}
PRUNED = {f"prune={name}" for name in ("solved-0.6", "0.5", "solved-0.4", "0.3")}


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({}, set()),
        ({"quantize": ("static", "qat")}, {"quantize=dynamic", "quantize=weights", "quantize=weights4", "mixed"}),
        ({"prune": ()}, PRUNED),
        ({"prune": (0.3,)}, PRUNED - {"prune=0.3"}),
        ({"prune": ("solved-0.6",)}, PRUNED - {"prune=solved-0.6"}),
        ({"runtimes": ("openvino", "torch")}, {"onnxruntime", "torchscript", "torch.compile"}),
        ({"precisions": ("fp32",)}, {"bf16"}),
        ({"without": ("torch.compile", "quantize=dynamic", "prune")}, {"torch.compile", "quantize=dynamic", *PRUNED}),
        ({"without": ("prune=0.50",)}, {"prune=0.5"}),
        ({"levers": ("openvino",)}, {"onnxruntime", "torchscript", "torch.compile", "torch"} | {p for p in EVERYTHING - THREADS if p not in levers()} | {
            "fit", "fold_batch_norm", "mixed", "qat"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else str(len(value)),  # a set has no order
)  # fmt: skip
def test_what_is_left_out(given: dict[str, Any], gone: set[str]) -> None:
    assert EVERYTHING - left(lc.SearchSpace(**given)) == gone


def test_levers_that_are_asked_for_leave_the_others_out_but_no_runtime() -> None:
    space = lc.SearchSpace(levers=("prune=0.6", "quantize"), without=("torch.compile",))
    assert left(space) == {
        "prune=0.6", "quantize=static", "quantize=dynamic", "quantize=weights", "quantize=weights4",
        "fp32", "bf16", "onnxruntime", "openvino", "torchscript", "torch", *THREADS,
    }  # fmt: skip


def test_a_setting_of_a_family_may_be_asked_for_beside_levers() -> None:
    assert {"mixed", "prune=0.5", "prune=0.3"} <= left(lc.SearchSpace(levers=("prune",), quantize=("mixed",)))


def test_one_setting_has_one_name_however_it_is_written() -> None:
    assert lc.SearchSpace(prune=("0.50",)) == lc.SearchSpace(prune=(0.5,))
    assert to_json(lc.SearchSpace(prune=(0.5,)))["choices"] == {"prune": ["0.5"]}


def test_targets_are_every_runtime_in_every_precision() -> None:
    space = lc.SearchSpace(("openvino", "torch"), threads=2)
    assert space.targets() == [lc.Target(name, precision, 2) for name in ("openvino", "torch") for precision in ("fp32", "bf16")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quantize": ("statik",)}, "quantize: 'statik'. Did you mean 'static'?"),
        ({"quantise": ()}, "quantise: there is no lever of this name. Did you mean 'quantize'?"),
        ({"runtimes": ("onnxruntim",)}, "runtimes: 'onnxruntim'. Did you mean 'onnxruntime'?"),
        ({"precisions": ("fp31",)}, "precisions: 'fp31'. Did you mean 'fp32'?"),
        ({"prune": (1.5,)}, "prune: 1.5 must lie between 0 and 1: it is kept"),
        ({"prune": ("half",)}, "prune: 'half' is not a share such as 0.5"),
        ({"levers": ("student=",)}, "levers: student: '' is no name"),
        ({"student": (" ",)}, "student: ' ' is no name"),
        ({"levers": ("prun",)}, "levers: 'prun' is no lever. Did you mean 'prune'?"),
        ({"levers": ("quantize=statik",)}, "levers: quantize: 'statik'. Did you mean 'static'?"),
        ({"levers": ("drop_blocks=1",)}, "levers: drop_blocks: '1' must be a whole number of 2 or more"),
        ({"without": ("torch.compil",)}, "without: 'torch.compil' is no lever. Did you mean 'torch.compile'?"),
        ({"levers": ("prune",), "without": ("prune",)}, "without: 'prune' is asked for too"),
        ({"without": ("fp32", "bf16")}, "no precision is left"),
        ({"runtimes": ()}, "no runtime is left"),
        ({"threads": 0}, "threads: 0 must be 1 or more"),
        ({"device": "tpu"}, "device: 'tpu'. Did you mean 'cpu'?"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        lc.SearchSpace(**given)
    assert f"\n  {said}" in str(caught.value)
    assert str(caught.value).count("\n") == 1


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        lc.SearchSpace(("onnx",), ("fp8",), 0, "tpu", levers=("prun",), without=("x",), quantize=("q",), nonsense=())
    assert str(caught.value).count("\n") == 8


def test_every_option_of_a_space_is_in_its_manifest() -> None:
    assert {field.name for field in dataclasses.fields(lc.SearchSpace)} == {
        "choices",
        "threads",
        "device",
        "levers",
        "without",
        "effort",
        "trials",
    }

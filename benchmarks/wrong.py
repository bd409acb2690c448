"""Inputs that are wrong, each with the sentence that must be said before any work starts; `tests/test_wrong.py` and `benchmarks.campaign wrong` read them.

`python -m benchmarks.wrong NAME`: this one, as a user meets it: seconds until the message beside imports, exit code, message.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import laconic as lc
from laconic.tasks.check import check_task

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3
EXIT = 2


@dataclass(frozen=True)
class Wrong:
    """What is done, and what must be said of it (a regular expression)."""

    do: Callable[[], Any]
    said: str


class Rows(Dataset[Any]):
    """Examples that a function makes of their place."""

    def __init__(self, row: Callable[[int], Any], n: int = 40) -> None:
        self.row, self.n = row, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return self.row(index)


def plain(i: int) -> Any:
    return X[i], Y[i]


def task(train: Any = None, valid: Any = None, model: Any = None, **more: Any) -> lc.Task:
    """A sound task, but for what is given."""
    given: dict[str, Any] = {"loss": F.cross_entropy, "batch_size": 16, "name": "wrong", **more}
    return lc.Task(
        nn.Linear(6, 3).eval() if model is None else model, *(Rows(plain) if data is None else data for data in (train, valid)), **given
    )


def optimized(**changes: Any) -> Callable[[], Any]:
    return lambda: lc.optimize(task(**changes), lc.Budget(max_drop="any"), out="never-made")


def checked(**changes: Any) -> Callable[[], Any]:
    """Only look at a task, as `optimize` does before anything else: no process is started for it."""
    return lambda: check_task(task(**changes))


def with_value(place: int, value: float) -> Dataset[Any]:
    """Inputs with one value at example `place`."""
    inputs = X.clone()
    inputs[place, 2] = value
    return TensorDataset(inputs, Y)


def with_target(place: int, value: int) -> Dataset[Any]:
    """Targets with one value at example `place`."""
    targets = Y.clone()
    targets[place] = value
    return TensorDataset(X, targets)


def tree(i: int) -> Any:
    return X[i], {"kind": Y[i], "box": X[i, :4]}


def squared(outputs: Any, target: Any) -> Tensor:
    return F.cross_entropy(outputs, target["kind"])


def right(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(1) == target).float().mean())


class Box:
    """Neither tensor nor container."""


class Answer:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class OwnClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return Answer(self.o(x))


class Packs(nn.Module):
    """Packs its input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.LSTM(6, 8, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.l(packed)[1][0][-1]  # type: ignore[no-any-return]


class TakesPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.LSTM(6, 8)

    def forward(self, x: Any) -> Tensor:
        return self.l(x)[1][0][-1]  # type: ignore[no-any-return]


class One(nn.Module):
    """Answers exactly one example."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(x.reshape(1, 6))  # type: ignore[no-any-return]


class Endless(nn.Module):
    """Answers NaN where the first number is small."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(x) + torch.where(x[:, :1] < X[:, :1].median(), torch.nan, 0.0)  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Branches on a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] if x.sum() > 0 else -x[:, :3]


def packed() -> Any:
    return rnn.pack_padded_sequence(X[:, :5].reshape(4, 10, 5)[:, :, [0, 1, 2, 3, 4, 4]], torch.tensor([10, 8, 8, 3]), batch_first=True)


def lengths(i: int) -> Any:
    return X[: 2 + i % 5], Y[i]


def padded(rows: list[Any]) -> Any:
    inputs, targets = zip(*rows, strict=True)
    return rnn.pad_sequence(list(inputs), batch_first=True), torch.stack(targets)


class Means(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(x.mean(1))  # type: ignore[no-any-return]


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Linear(6, 3).eval(), X[:2])


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(6, 3).eval())


def nested() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([X[:2], X[:3]])


def needs_an_argument(x: Tensor) -> Tensor:
    return x


def onnx_model() -> Any:
    import onnx

    return onnx.ModelProto()


def program() -> lc.Program:
    return lc.capture(nn.Linear(6, 3), X)


def timed_at_no_length() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        program = lc.capture(Means(), X[:28].reshape(4, 7, 6), dynamic={"x": {1: "length"}})
        return lc.bench(lc.export(program, f"{folder}/net.pt2"))


RECIPE = {
    "steps": [{"prune": {"mac": 0.5}}, "fold"],
    "deploy": {"runtime": "onxruntime", "threads": "many"},
    "budget": {"max_dorp": 1, "min_speedup": -1},
}


def recipe() -> Any:
    from laconic.run.recipe import parse

    return parse(RECIPE, budget=lc.Budget.from_plain)


# Where there is a GPU this is no mistake; the name of a device that nobody has is refused in another place.
CUDA = (
    {}
    if torch.cuda.is_available()
    else {"cuda": Wrong(lambda: lc.optimize(task(), space=lc.SearchSpace(device="cuda")), "the device 'cuda' cannot be used")}
)

ROWS: dict[str, Wrong] = {
    **CUDA,
    "nan in valid": Wrong(optimized(valid=with_value(37, np.nan)), r"valid: example 37 holds a value that is NaN \(input 'input'\)"),
    "inf in train": Wrong(optimized(train=with_value(21, np.inf)), r"train: example 21 holds a value that is infinite \(input 'input'\)"),
    "nan in test": Wrong(optimized(test=with_value(0, np.nan)), "test: example 0 holds a value that is NaN"),
    "answers nan": Wrong(optimized(model=Endless()), r"model: its answer to example \d+ of the valid data is not finite"),
    "label in train": Wrong(
        optimized(train=with_target(33, 7)), r"train: a target is 7; the model knows the classes 0 to 2 \(example 33\)"
    ),
    "label in valid": Wrong(
        optimized(valid=with_target(18, 3)), r"valid: a target is 3; the model knows the classes 0 to 2 \(example 18\)"
    ),
    "label for a loss": Wrong(
        optimized(train=with_target(33, 7), metric=right, direction="max"),
        "train: the loss cannot be computed of the examples 32 to 39: IndexError",
    ),
    "target nan": Wrong(
        optimized(
            valid=TensorDataset(X, torch.where(torch.arange(40) == 9, torch.nan, X[:, 0])), model=nn.Linear(6, 1), metric="mse", loss=None
        ),
        r"valid: a target is not a finite number \(example 9\)",
    ),
    "target object": Wrong(optimized(valid=Rows(lambda i: (X[i], Box()))), r"valid: .*Give Task\(collate=…\) that makes tensors"),
    "target none": Wrong(optimized(valid=Rows(lambda i: (X[i], None))), r"valid: .*Give Task\(collate=…\) that makes tensors"),
    "target tree": Wrong(
        optimized(valid=Rows(tree), train=Rows(tree), loss=squared),
        r"this target has 'kind' \(16,\), 'box' \(16, 4\)\. Say which, e\.g\. Task\(target='kind'\)",
    ),
    "target tree, no such part": Wrong(
        optimized(valid=Rows(tree), train=Rows(tree), loss=squared, target="label"),
        r"Task\(target='label'\) gives nothing\. Say which, e\.g\. Task\(target='kind'\)",
    ),
    "target words": Wrong(
        optimized(valid=Rows(lambda i: (X[i], "yes")), train=Rows(lambda i: (X[i], "yes"))),
        r"a list with an entry for each example \(str\): give a function as the metric",
    ),
    "example that raises": Wrong(
        optimized(valid=Rows(lambda i: plain(i) if i != 29 else plain(99))), "valid: example 29 cannot be read: IndexError"
    ),
    "lengths not padded": Wrong(
        optimized(valid=Rows(lengths), train=Rows(lengths), model=Means()), r"pad them in Task\(collate=…\), and name the dimension"
    ),
    "lengths not declared": Wrong(
        optimized(valid=Rows(lambda i: lengths(i // 16)), train=Rows(lambda i: lengths(i // 16)), model=Means(), collate=padded),
        r"valid: batches have inputs of different shapes; say which dimension varies: Task\(dynamic=\{'x': \{1: 'length'\}\}\)",
    ),
    "one example alone": Wrong(optimized(model=One()), r"It answers one example alone: say Task\(dynamic_batch=False, batch_size=1\)"),
    "model path": Wrong(lambda: lc.capture("net.pt", X), "the path 'net.pt'"),  # type: ignore[arg-type]
    "model state_dict": Wrong(optimized(model=nn.Linear(6, 3).state_dict()), "state_dict"),
    "model function": Wrong(optimized(model=needs_an_argument), "a function"),
    "model class": Wrong(lambda: lc.capture(OwnClass, X), r"the class OwnClass\. Give an object of it: OwnClass\(…\)"),  # type: ignore[arg-type]
    "model traced": Wrong(optimized(model=traced()), "a TorchScript object"),
    "model scripted": Wrong(optimized(model=scripted()), "a TorchScript object"),
    "model onnx file": Wrong(
        optimized(model="net.onnx"), r"the ONNX file 'net\.onnx'\. Give the torch\.nn\.Module that it was exported from"
    ),
    "model onnx object": Wrong(lambda: lc.capture(onnx_model(), X), r"an ONNX model\. Give the torch\.nn\.Module"),
    "model tensor": Wrong(lambda: lc.capture(X, X), "the class Tensor"),  # type: ignore[arg-type]
    "model without forward": Wrong(checked(model=nn.ModuleList([nn.Linear(6, 3)])), "ModuleList has no forward"),
    "model meets other types": Wrong(
        lambda: lc.capture(nn.Linear(6, 3), X.double()), r"cannot answer this example \('input' \(40, 6\) float64\)"
    ),
    "model meets no index": Wrong(
        lambda: lc.capture(nn.Embedding(4, 3), Y + 9), r"cannot answer this example .*IndexError: index out of range"
    ),
    "batch of none": Wrong(lambda: lc.capture(nn.Linear(6, 3), X[:0]), "a batch of no examples"),
    "data is a loader": Wrong(
        checked(train=DataLoader(TensorDataset(X, Y), 8)), r"train: a DataLoader .*give its dataset, loader\.dataset"
    ),
    "data is arrays": Wrong(checked(valid=(X.numpy(), Y.numpy())), r"valid: two arrays .*TensorDataset\(inputs, targets\)"),
    "data is one array": Wrong(checked(valid=X), "valid: Tensor is one array without targets"),
    "data is a mapping": Wrong(checked(valid={"x": X, "y": Y}), "valid: dict is a mapping, no dataset"),
    "data is a generator": Wrong(
        checked(valid=(pair for pair in zip(X, Y, strict=True))), r"valid: generator has no length; .*list\(data\)"
    ),
    "data of other types": Wrong(
        checked(valid=TensorDataset(X.double(), Y), train=TensorDataset(X.double(), Y)), r"same dtype.*x\.float\(\)"
    ),
    "targets of other types": Wrong(checked(valid=TensorDataset(X, Y.int())), r"loss: .*expected target dtype .*y\.long\(\)"),
    "task of wrong types": Wrong(
        lambda: task(batch_size="many", dynamic={"x": 1}, plan=3, loss="ce", dynamic_batch="no"),
        r"(?s)loss: 'ce' must be a function, or None.*batch_size: 'many' must be a whole number"
        r".*plan: 3 must be a laconic\.FitPlan, or None.*dynamic: \{'x': 1\} must be a mapping.*dynamic_batch: 'no' must be True or False",
    ),
    "task of several parts": Wrong(lambda: task(part=["a", "b"]), r"one part is compressed at a time.*laconic\.place"),
    "plan of wrong numbers": Wrong(
        checked(plan=lc.FitPlan(lr=-1, epochs=1.5)),  # type: ignore[arg-type]
        r"(?s)plan: epochs: 1\.5 must be a whole number.*plan: lr: -1 must be more than 0",
    ),
    "plan in a task": Wrong(
        lambda: task(plan={"lr": -1.0, "epoch": 3}),
        r"(?s)lr: -1\.0 must be more than 0.*epoch: is no option of FitPlan\. Did you mean 'epochs'",
    ),
    "share as a text": Wrong(lambda: lc.Prune(macs="0.5"), "macs: '0.5' must be a number, or None"),  # type: ignore[arg-type]
    "bits as a truth value": Wrong(lambda: lc.Quantize(bits=True), "bits: True must be 8 or 4"),  # type: ignore[arg-type]
    "threads as a text": Wrong(lambda: lc.SearchSpace(threads="2"), "threads: '2' must be a whole number, or None"),  # type: ignore[arg-type]
    "config of another step": Wrong(
        lambda: lc.quantize(program(), lc.Prune()), "'quantize' cannot be called so:\n  config: an object of the class Prune"
    ),  # type: ignore[arg-type]
    "options as a mapping": Wrong(lambda: lc.prune(program(), {"macs": 0.5}), r"config: \{'macs': 0\.5\} must be a laconic\.Prune"),  # type: ignore[arg-type]
    "plan and task changed over": Wrong(
        lambda: lc.fit(nn.Linear(6, 3), task(), lc.FitPlan()),  # type: ignore[arg-type]
        r"(?s)fit cannot be called so.*plan: .*Task must be a laconic\.FitPlan.*task: ",
    ),
    "a name as the space": Wrong(lambda: lc.optimize(task(), space="openvino"), "space: 'openvino' must be a laconic.SearchSpace, or None"),  # type: ignore[arg-type]
    "a name as a recipe": Wrong(
        lambda: lc.optimize(task(), recipes=["prune"]), r"recipes: \['prune'\] must be a list of which each is a laconic\.Recipe"
    ),  # type: ignore[list-item]
    "dynamic without names": Wrong(
        lambda: lc.capture(nn.Linear(6, 3), X, dynamic={"input": [1]}), r"dynamic: \{'input': \[1\]\} must be a mapping of a text"
    ),  # type: ignore[dict-item]
    "a batch of half an example": Wrong(lambda: lc.bench("net.onnx", batch=0), "batch: 0 must be 1 or more"),
    "path of no type": Wrong(lambda: lc.export(program(), 3), "path: 3 must be a text or a path"),  # type: ignore[arg-type]
    "prune a module": Wrong(lambda: lc.prune(nn.Linear(6, 3)), r"'prune' takes a Program; .* Capture the module first"),  # type: ignore[call-arg, arg-type]
    "optimize a module": Wrong(lambda: lc.optimize(nn.Linear(6, 3)), r"optimize takes a laconic\.Task"),  # type: ignore[arg-type]
    "unknown task": Wrong(lambda: lc.optimize("digit"), r"'digit' is not a built-in task\. Did you mean 'digits'"),
    "budget": Wrong(
        lambda: lc.optimize(task(), {"max_dorp": 1, "min_speedup": -1}),
        r"(?s)max_dorp: unknown limit\. Did you mean 'max_drop'.*min_speedup: -1",
    ),
    "budget number": Wrong(lambda: lc.optimize(task(), 0.5), "a mapping of limits"),  # type: ignore[arg-type]
    "recipe": Wrong(
        recipe,
        r"(?s)6 mistakes.*steps\[0\]\.prune\.mac: unknown option\. Did you mean 'macs'.*steps\[1\]: 'fold' is not a step.*deploy\.threads: 'many'.*"
        r"deploy\.runtime: 'onxruntime'.*budget\.max_dorp.*budget\.min_speedup",
    ),
    "no length to time at": Wrong(timed_at_no_length, r"say at which it is timed, lengths=\{'length': 64\} \(--length length=64\)"),
    "packed input": Wrong(lambda: lc.capture(TakesPacked(), (packed(),)), "packed sequence.*Pad instead of packing"),
    "packs in forward": Wrong(
        lambda: lc.capture(Packs(), (torch.randn(4, 7, 6), torch.tensor([7, 5, 4, 3]))), "packed sequence.*Pad instead of packing"
    ),
    "own class of output": Wrong(lambda: lc.capture(OwnClass(), X), "Answer.*[Rr]eturn"),
    "branch": Wrong(lambda: lc.capture(Branches(), X), r"torch\.where"),
    "sparse input": Wrong(lambda: lc.capture(nn.Linear(6, 3), X.to_sparse()), r"sparse.*to_dense\(\)"),
    "nested input": Wrong(lambda: lc.capture(nn.Linear(6, 3), nested()), r"nested.*to_padded_tensor"),
}


def measured(name: str) -> tuple[float, int, str]:
    """Do one thing in a process of its own; return the seconds until its message beside imports, its exit code, its message."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.wrong", name], capture_output=True, text=True, check=False, timeout=300)
    seconds = re.search(r"^seconds ([0-9.]+)$", done.stdout, re.M)
    return float(seconds[1]) if seconds else float("nan"), done.returncode, done.stderr.strip()


def campaign(names: list[str]) -> None:
    """Do everything, or what is named, each in a process of its own, and print seconds until the message beside imports, exit code, first line."""
    slowest, failed = 0.0, 0
    for name in names or ROWS:
        seconds, code, message = measured(name)
        right = code == EXIT and re.search(ROWS[name].said, message) is not None
        slowest, failed = max(slowest, seconds), failed + (not right)
        print(
            f"{'ok' if right else 'WRONG':6}{name:28}{seconds:6.2f} s  exit {code}  {message.splitlines()[-1][:110] if message else ''}",
            flush=True,
        )
    print(f"{len(names or ROWS)} wrong inputs, {failed} not told as they should be, the slowest after {slowest:.2f} s beside imports")


def main(name: str) -> None:
    """Do one thing as the command line does it."""
    import typer

    from laconic.cli.output import guarded

    lc.optimize, lc.capture, lc.prune  # noqa: B018 - imported before the clock starts
    start = time.perf_counter()
    try:
        guarded(ROWS[name].do)
    except typer.Exit as ended:
        print(f"seconds {time.perf_counter() - start:.2f}")
        sys.exit(ended.exit_code)


if __name__ == "__main__":
    main(sys.argv[1])

"""Teachers: models that answer and do not learn; and their answers over a whole data set, kept on disk."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, default_collate

from laconic.core import modes, structure
from laconic.core.errors import BadInput, CorruptFile, LaconicError
from laconic.core.files import write_whole
from laconic.core.program import Program, as_call
from laconic.core.reader import Reader
from laconic.core.task import default_logits, split_batch
from laconic.distill.watch import Tap, TappedRun, Watch, watch

Split = Callable[[Any], tuple[Any, Any]]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, without gradient, and give it back in the modes that it had."""
    with modes.evaluating(model), torch.no_grad():
        yield


class Teacher:
    """A model that answers in evaluation mode without gradient, on the device where it is asked. It is no part of the module that asks it.

    Args:
        model: it is copied if it trains or shares parameters with the student, or when it is asked on another device; so yours stays as it is.
        taps: what of its inner values is wanted.
        student: the one that learns.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], student: nn.Module) -> None:
        shared = {id(p) for p in student.parameters()} & {id(p) for p in model.parameters()}
        trains = any(module.training for module in model.modules())
        self.model = copy.deepcopy(model).eval() if shared or trains or model is student else model
        self._watch: Watch = watch(self.model, taps, "teacher")

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    @torch.no_grad()
    def __call__(self, device: torch.device, *args: Any, **kwargs: Any) -> TappedRun:
        """Run the teacher on a device; return its outputs and tapped values."""
        held = next(self.model.parameters(), None)
        if held is not None and held.device != device:
            self.model = copy.deepcopy(self.model).to(device)
            self._watch = watch(self.model, self._watch.taps, "teacher")
        with self._watch.recording() as values:
            return TappedRun(self.model(*args, **kwargs), values)


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a program, or of a module's printed form and its tensors."""
    if isinstance(model, Program):
        return model.fingerprint()
    digest = hashlib.sha256(repr(model).encode())
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


_MOST_BYTES = 1 << 30  # of answers that are kept


class UnkeptAnswers(BadInput):
    """Answers that one tensor in memory cannot hold: batches have different lengths, or there is too much of it."""


def answers(
    teacher: nn.Module,
    data: Dataset[Any],
    *,
    split: Split = split_batch,
    collate: Callable[[list[Any]], Any] | None = None,
    logits: Callable[[Any], Tensor] = default_logits,
    batch_size: int = 128,
    folder: Path | None = None,
) -> Tensor:
    """Compute a teacher's logits for all examples, once.

    Args:
        teacher: a module or a program; asked in evaluation mode on its own device, and given back as it was.
        data: map-style, without random augmentation: what the teacher saw must be what the student will see.
        split: `batch -> (inputs, target)`.
        collate: as of `DataLoader`.
        logits: `outputs -> (B, K)`.
        folder: where the answers are kept, in a file named for the teacher's weights and all inputs; None keeps none. The data is read in any case.

    Returns:
        (n, K), on the processor, in the data's order.

    Raises:
        CorruptFile: the file that is there is not whole.
        BadInput: no data, or answers that are not finite.
        UnkeptAnswers: batches of different length, or more than 1 GiB of answers.
    """
    if len(data) == 0:  # type: ignore[arg-type]
        raise BadInput("the data for the teacher is empty")
    if folder is None:
        return _ask(teacher, _inputs(data, split, collate, batch_size), logits)
    key = _key(teacher, _inputs(data, split, collate, batch_size))
    path = Path(folder) / f"answers-{key[:32]}.safetensors"
    if path.exists():
        return _read(path, key)
    logits_kept = _ask(teacher, _inputs(data, split, collate, batch_size), logits)
    from safetensors.torch import save_file

    header = {"key": key, "sha256": hashlib.sha256(_bytes(logits_kept)).hexdigest()}
    write_whole(path, lambda aside: save_file({"answers": logits_kept}, aside, header))
    return logits_kept


def mean_answers(several: Sequence[Tensor]) -> Tensor:
    """Put several teachers together: log of the mean of their probabilities, (n, K) each."""
    return torch.stack([torch.log_softmax(one, -1) for one in several]).logsumexp(0) - torch.tensor(len(several)).log()


def _inputs(data: Dataset[Any], split: Split, collate: Any, batch_size: int) -> Iterator[Any]:
    for batch in Reader(data, "the data that the teacher answers").loader(batch_size, collate):
        yield split(batch)[0]


def _key(teacher: nn.Module, inputs: Iterator[Any]) -> str:
    """Return one digest over the teacher and every input, whatever the size of the batches."""
    digests: list[Any] = []
    forms: list[set[str]] = []
    for value in inputs:
        leaves: list[Tensor] = []
        structure.describe(value, leaves)
        digests = digests or [hashlib.sha256() for _ in leaves]
        forms = forms or [set() for _ in leaves]
        for digest, form, leaf in zip(digests, forms, leaves, strict=True):
            form.add(f"{leaf.dtype}{tuple(leaf.shape[1:])}")
            digest.update(_bytes(leaf))
    parts = [f"{digest.hexdigest()}{sorted(form)}" for digest, form in zip(digests, forms, strict=True)]
    return hashlib.sha256("".join([fingerprint(teacher), *parts]).encode()).hexdigest()


def _ask(teacher: nn.Module, inputs: Iterator[Any], logits: Callable[[Any], Tensor]) -> Tensor:
    held = next(teacher.parameters(), None)
    device = torch.device("cpu") if held is None else held.device
    parts: list[Tensor] = []
    with evaluating(teacher):
        for value in inputs:
            if sum(part.nbytes for part in parts) > _MOST_BYTES:
                raise UnkeptAnswers(f"the teacher's answers are more than {_MOST_BYTES >> 30} GiB, so that they are not kept")
            args, kwargs = as_call(tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value))
            parts.append(logits(teacher(*args, **kwargs)).detach().float().cpu())
    if len({tuple(part.shape[1:]) for part in parts}) > 1:
        raise UnkeptAnswers("the teacher's answers have other shapes in each batch, so that they cannot be kept in one tensor")
    answer = torch.cat(parts).contiguous()
    if not bool(answer.isfinite().all()):
        row = int((~answer.isfinite().reshape(len(answer), -1).all(1)).nonzero()[0])
        raise BadInput(f"the teacher's answer to example {row} is not finite. Look at its inputs, or at the teacher's weights.")
    return answer


def _read(path: Path, key: str) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            logits, header = file.get_tensor("answers"), file.metadata()
        if header["key"] != key or header["sha256"] != hashlib.sha256(_bytes(logits)).hexdigest():
            raise CorruptFile(f"{path} was altered. Delete it to have the teacher asked again.")
    except LaconicError:
        raise
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise CorruptFile(
            f"{path} is not a whole file of a teacher's answers ({error}). Delete it to have the teacher asked again."
        ) from error
    assert isinstance(logits, Tensor)
    return logits


class Taught(Dataset[Any]):
    """A data set with the teacher's answers beside the targets.

    Items are `(inputs, {"target": target, "teacher": row of the answers})`; so batches of a `DataLoader` are, and `teach(…, cached=True)` knows such
    targets. Where the task collates by itself, give its `collate`, and train with `collate=taught.collate`: then an item is `(item, row)`.

    Args:
        data: map-style.
        answers: (n, K), of `answers`.
        split: `batch -> (inputs, target)`, as of the task.
        collate: the task's own, if it has one.

    Raises:
        BadInput: there are more or fewer answers than examples.
    """

    def __init__(
        self, data: Dataset[Any], answers: Tensor, split: Split = split_batch, collate: Callable[[list[Any]], Any] | None = None
    ) -> None:
        if len(answers) != len(data):  # type: ignore[arg-type]
            raise BadInput(f"there are {len(answers)} answers of the teacher for {len(data)} examples. Ask it about this data.")  # type: ignore[arg-type]
        self.data, self.answers, self.split = data, answers, split
        self._collate = collate

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Any:
        item = self.data[index]
        if self._collate is not None:
            return item, self.answers[index]
        inputs, target = self.split(item)
        return inputs, {"target": target, "teacher": self.answers[index]}

    def collate(self, items: list[Any]) -> Any:
        """Collate items to a batch `(inputs, {"target": …, "teacher": (B, K)})`."""
        if self._collate is None:
            return default_collate(items)
        inputs, target = self.split(self._collate([item for item, _ in items]))
        return inputs, {"target": target, "teacher": torch.stack([row for _, row in items])}

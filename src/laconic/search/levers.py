"""The table of levers: what may be tried. The search space, the command line, the order of recipes and what follows a loss are derived from its rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from laconic.core.errors import BadInput
from laconic.core.extensions import extended, load, origin
from laconic.core.folding import FoldBatchNorm
from laconic.core.plan import FitPlan, completed
from laconic.core.target import PRECISIONS
from laconic.core.task import Task
from laconic.deploy import runtime
from laconic.distill.student import Student
from laconic.factorize.depth import DropBlocks, run_lengths
from laconic.factorize.lowrank import LowRank
from laconic.factorize.separable import Separable
from laconic.pruning.structured import Prune
from laconic.pruning.unstructured.options import Sparsify
from laconic.pruning.unstructured.patterns import FREE
from laconic.quantization.mixed import Mixed
from laconic.quantization.options import Quantize
from laconic.quantization.qat import Qat
from laconic.quantization.smooth import SmoothNorms, can_be_smoothed
from laconic.search.conditions import (
    because,
    blocks_pay,
    can_round_in_training,
    can_train,
    has_batch_norm,
    has_blocks,
    has_integers,
    has_large_kernels,
    has_large_layers,
    has_linear,
    is_dynamic,
    kernels_pay,
    packing_alone_counts,
    packing_and_time_count,
    packing_counts,
    size_counts,
    threads_wait,
    zeros_count,
    zeros_in,
)
from laconic.search.lever import SHARE, Lever, Range, Setting, Surroundings
from laconic.search.tables import EVERY
from laconic.storage.rate_distortion import RateDistortion
from laconic.storage.share import ShareWeights
from laconic.train.step import Fit

Options = Mapping[str, Any]
Build = Callable[[Surroundings, Options], tuple[Any, ...]]

_LOW_LR = 1e-4  # for weights that know something already
_DISTILL = 0.5
# Without training a grid whose step the curvature tells is far ahead of one up to the largest number (docs/storage.md).
_UNTRAINED: Options = {"grid": "stepped", "bits": 8, "recovery": {"epochs": 0}}
# At three bits a weight the nets of docs/storage.md lost nothing that could be told. A limit is aimed at from below, since names, scales and biases take bytes.
_FEW_BITS, _OF_LIMIT = 3.0, 0.85
_OTHER_BITS = (
    "the bits that the limit of the packed size leaves are tried by themselves, 3 where there is none; asked for by name these are too"
)
_ONE_RANK = "of the ranks 0.3 is tried by itself; asked for by name this is too"
_QUARTER = 4  # of the cores, one of so many is a number of threads that is tried, beside one thread
# How long the rest recovers: epochs at least and at most, and steps that are wanted.
_RECOVERY_EPOCHS, _RECOVERY_STEPS = (2, 20), 400


def _rules(around: Surroundings) -> str:
    """The placement rules of the runtime, for steps that round."""
    return runtime.runtime(around.target.runtime).quantizes


# How ---------------------------------------------------------------------------------------------------------------------------------


def _student(around: Surroundings, options: Options) -> tuple[Any, ...]:
    task = around.task
    plan = task.plan or task.recovery or FitPlan(batch_size=task.batch_size, epochs=_recovery_epochs(task))
    return Student(**options), Fit(completed({"distill": plan.distill or _DISTILL, "hints": ()}, plan))  # another net has other paths


def _drop_blocks(around: Surroundings, options: Options) -> tuple[Any, ...]:
    if "least" in options:  # shares of as many blocks are one recipe
        count = sum(run_lengths(around.program))
        options = {**options, "least": round(max(1, round(options["least"] * count)) / count, 3)}
    return DropBlocks(**options), Fit(_further(around.task, _DISTILL))


def _recovering(kind: type[Prune] | type[Sparsify] | type[ShareWeights] | type[RateDistortion]) -> Build:
    """Build a step that trains the rest as many epochs as that wants; what else recovery is like is the task's (`core.recovery`)."""

    def build(around: Surroundings, options: Options) -> tuple[Any, ...]:
        recovery = None if around.task.recovery is not None else {"epochs": _recovery_epochs(around.task)}
        return (kind(**{"recovery": recovery, **options}),)

    return build


def _pruned(around: Surroundings, options: Options) -> tuple[Any, ...]:
    """Build pruning to a share, or to sizes that are solved for a share of the time of the layers."""
    if SHARE in options:
        assert around.sizes is not None  # see `Setting.solvable`
        options = {"keep": around.sizes.keep(options[SHARE]), "criterion": around.sizes.criterion}
    return _recovering(Prune)(around, options)


def _solved(share: float) -> Setting:
    """Return the setting of sizes that are solved for a share of the time."""
    return Setting(f"solved-{share:g}", {SHARE: share}, share=share)


def _allocated(around: Surroundings, options: Options) -> tuple[Any, ...]:
    """Build what is solved for over channels, blocks, ranks and bits together: the cuts, one training of what is left, and rounding if that ships."""
    assert around.sizes is not None  # see `Setting.solvable`
    keep, blocks, ranks, bits = (around.sizes.values(options[SHARE], kind, EVERY) for kind in ("channels", "block", "rank", "bits"))
    criterion = around.sizes.criterion
    steps: list[Any] = [*([DropBlocks(blocks=tuple(blocks))] if blocks else []), *([LowRank(ranks=ranks)] if ranks else [])]
    if steps:
        steps = [
            *([Prune(keep=keep, criterion=criterion, recovery={"epochs": 0})] if keep else []),
            *steps,
            Fit(_further(around.task, _DISTILL)),
        ]
    elif keep:
        steps = list(_recovering(Prune)(around, {"keep": keep, "criterion": criterion}))
    there = tuple(path for path in bits if not path.startswith(tuple(f"{block}." for block in blocks)))
    if around.sizes.precision == "fp32":
        return tuple(steps)
    few = [RateDistortion(**_fitting(around), **_UNTRAINED)] if packing_counts(around) is None else []
    return (*steps, *few, Quantize(target=_rules(around), keep=there))


def _allocation(share: float) -> Setting:
    """Return the setting of all kinds of choices that are solved for a share of the time; it says itself whether it rounds."""
    return Setting(f"{share:g}", {SHARE: share}, share=share, kinds=EVERY, combines=False)


def _rewritten(kind: type[LowRank] | type[Separable]) -> Build:
    """Build a step whose layers are near to the old ones, and a training of the whole with the model as its teacher."""
    return lambda around, options: (kind(**options), Fit(_further(around.task, _DISTILL)))


def _fit(around: Surroundings, options: Options) -> tuple[Any, ...]:
    return (Fit(_further(around.task, 0.0)),)


def _further(task: Task, distill: float) -> FitPlan:
    """How weights that know something are trained further: as the task recovers, else at a small rate."""
    soft = (task.plan or FitPlan()).soft
    plan = task.recovery or FitPlan(batch_size=_batch_size(task), epochs=_recovery_epochs(task), lr=_LOW_LR, soft=soft)
    return completed({"distill": plan.distill or distill}, plan)


def _aimed(kind: type[Quantize] | type[Mixed]) -> Build:
    """Build a step that needs to know the target's rules and nothing else."""
    return lambda around, options: (kind(target=_rules(around), **options),)


def _compact(around: Surroundings, options: Options) -> tuple[Any, ...]:
    """Build values that are few for their bits, and rounding on their own grids (`quantization.scheme.common_step`): a small file of integers."""
    few = RateDistortion(**_UNTRAINED, **(options or _fitting(around)))
    return *([SmoothNorms()] if can_be_smoothed(around.program) else []), few, Quantize(target=_rules(around))


def _fitting(around: Surroundings) -> Options:
    """Return how far values are chosen: to what a limit of the packed size leaves, of whatever the model has become by then."""
    limit = around.budget.asked.get("max_packed_mb")
    return {"bits_per_weight": _FEW_BITS} if limit is None else {"packed_mb": float(f"{_OF_LIMIT * limit:.3g}")}


def _qat(around: Surroundings, options: Options) -> tuple[Any, ...]:
    return (Qat(target=_rules(around), recovery={"lr": _LOW_LR, "batch_size": _batch_size(around.task)}, **options),)


def _batch_size(task: Task) -> int:
    return task.batch_size if task.plan is None else task.plan.batch_size


def _recovery_epochs(task: Task) -> int:
    """As many epochs as the wanted steps take."""
    fewest, most = _RECOVERY_EPOCHS
    return min(most, max(fewest, math.ceil(_RECOVERY_STEPS * _batch_size(task) / len(task.train))))  # type: ignore[arg-type]


# What a user may give ----------------------------------------------------------------------------------------------------------------


def share(value: Any) -> float:
    """Read a share that is kept.

    Raises:
        ValueError: it is no number between 0 and 1.
    """
    return _between(value, 0.5, "it is kept")


def zeros(value: Any) -> float:
    """Read a share of zeros.

    Raises:
        ValueError: it is no number between 0 and 1.
    """
    return _between(value, 0.9, "so many of the weights become zero")


def _between(value: Any, example: float, what: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a share such as {example:g}") from error
    if not 0 < number < 1:
        raise ValueError(f"{number:g} must lie between 0 and 1: {what}")
    return number


def nth(value: Any) -> int:
    """Read which of a run goes: every n-th.

    Raises:
        ValueError: it is no whole number of 2 or more.
    """
    return _whole(value, "a whole number of 2 or more: every n-th goes", 2)


def bits(value: Any) -> int:
    """Read how many bits a number takes.

    Raises:
        ValueError: it is no whole number from 1 to 8.
    """
    return _whole(value, "a whole number of bits from 1 to 8", 1, 8)


def _whole(value: Any, must: str, least: int, most: float = math.inf) -> int:
    """Read a whole number within bounds; `must` says which it must be."""
    if not str(value).isdigit() or not least <= int(value) <= most:
        raise ValueError(f"{value!r} must be {must}")
    return int(value)


def rate(value: Any) -> float:
    """Read how many bits a number takes on average.

    Raises:
        ValueError: it is no number above 0.
    """
    try:
        number = float(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a number of bits such as 1.5") from error
    if not 0 < number < math.inf:
        raise ValueError(f"{number:g} must be a number of bits above 0")
    return number


def count(value: Any) -> int:
    """Read a number of threads.

    Raises:
        ValueError: it is no whole number of 1 or more.
    """
    return _whole(value, "a whole number of threads, 1 or more", 1)


# The table ---------------------------------------------------------------------------------------------------------------------------

LEVERS = (
    Lever(
        "student", "put another net, untrained, in the model's place and let the model teach it",
        configs=(Student, Fit), build=_student, needs="training data, a loss, and the name of a net", when=can_train,
        unasked=because("it needs the name of a net: --try student=resnet8, or student=module:attribute"), field="model",
    ),
    Lever(
        "drop_blocks", "leave out repeated residual blocks, then train the rest with the whole model as its teacher",
        (
            Setting("third", {"least": 0.33}),
            Setting("half", {"least": 0.5}),
            Setting("2", {"every": 2}, unasked=because("those that lose least go before every second one; asked for by name this is tried too")),
        ),
        configs=(DropBlocks, Fit), build=_drop_blocks, needs="repeated residual blocks, training data and a loss",
        when=has_blocks, unasked=blocks_pay, field="every", reads=nth, varies={"least": Range(0.1, 0.8, rises=True)},
    ),
    Lever(
        "low_rank", "write large layers as chains of lower rank, then train them with the whole model as their teacher",
        (
            Setting("0.3", {"macs": 0.3}),
            Setting("0.5", {"macs": 0.5}, unasked=because(_ONE_RANK)),
            Setting("time", {"latency": 0.6, "bits": 8}, when=has_integers, unasked=because(_ONE_RANK)),
        ),
        configs=(LowRank, Fit), build=_rewritten(LowRank),
        needs="large layers, training data and a loss", when=has_large_layers, field="macs", reads=share, varies={"macs": Range(0.25, 0.9)},
        unasked=kernels_pay,
    ),
    Lever(
        "separable", "make convolutions depthwise and 1×1, then train them with the whole model as their teacher",
        (Setting("1", {"multiplier": 1}), Setting("2", {"multiplier": 2})), configs=(Separable, Fit), build=_rewritten(Separable),
        needs="large kernels, training data and a loss", when=has_large_kernels,
        unasked=because("low_rank was nearly as fast behind int8 and lost far less, see docs/factorization.md; --try separable tries it"),
    ),
    Lever(
        "fit", "train the model further",
        (Setting("fit", combines=False),), configs=(Fit,), build=_fit, needs="training data and a loss", when=can_train,
        unasked=because("by itself it makes nothing smaller or faster; --try fit tries it"),
    ),
    Lever(
        "prune", "remove the least important channels, heads and neurons, then train the rest; a setting is the share of multiply-adds that is kept, or solved",
        (_solved(0.6), Setting("0.5", {"macs": 0.5}), _solved(0.4), Setting("0.3", {"macs": 0.3})), configs=(Prune,), build=_pruned,
        needs="training data and a loss", when=can_train,
        field="macs", reads=share, varies={"macs": Range(0.05, 0.9), "criterion": ("group_l2", "taylor", "bn_scale"), "allocation": ("global", "uniform")},
    ),
    Lever(
        "allocate", "choose channels, blocks, ranks and bits of layers together, then train the rest; a setting is the share of the layers' time that is kept",
        (_allocation(0.6), _allocation(0.4)), configs=(Prune, DropBlocks, LowRank, Fit, Quantize), build=_allocated,
        needs="training data and a loss", when=can_train,
    ),
    Lever(
        "sparsify", "set the least important weights to zero where they stand, while the rest trains; a setting is the share of zeros, or a pattern",
        (
            Setting("0.9", {"sparsity": 0.9}, unasked=zeros_in(FREE)),
            Setting("2:4", {"pattern": "2:4"}, unasked=zeros_in("2:4")),
        ),
        configs=(Sparsify,), build=_recovering(Sparsify), needs="training data and a loss", when=can_train, unasked=zeros_count,
        field="sparsity", reads=zeros, promise="high", varies={"sparsity": Range(0.5, 0.98, rises=True), "schedule": ("gradual", "rigl")},
    ),
    Lever(
        "fold_batch_norm", "fold batch-norms into the layers before them",
        (Setting("fold_batch_norm"),), configs=(FoldBatchNorm,),
        needs="batch-norms, and a runtime that does not fold them itself", when=has_batch_norm,
    ),
    Lever(
        "quantize", "round to integers after training",
        (
            Setting("static", {"mode": "static"}),
            Setting("dynamic", {"mode": "dynamic"}, when=is_dynamic),
            Setting("weights", {"mode": "weights"}, unasked=size_counts),
            Setting("weights4", {"mode": "weights", "bits": 4, "rounding": "adaptive"}, when=has_linear, unasked=size_counts, combines=False),
        ),
        configs=(Quantize,), build=_aimed(Quantize), needs="a runtime that computes with integers", when=has_integers, promise="high",
    ),
    Lever(
        "mixed", "round to integers, and keep the operators that lose most in float",
        (Setting("mixed"),), configs=(Mixed,), build=_aimed(Mixed), needs="a runtime that computes with integers", when=has_integers,
        family="quantize", follows="quantize=static", promise="high",
    ),
    Lever(
        "qat", "train with the rounding in place",
        (Setting("qat"),), configs=(Qat,), build=_qat, needs="a runtime that computes with integers, training data and a loss", when=can_round_in_training,
        family="quantize", follows="quantize=static",
    ),
    Lever(
        "compact", "choose weights' values by the loss and the bits that they cost, then round to integers on the same grids; a setting is bits a weight",
        (
            Setting("limit", cost="calibration"),
            *(Setting(f"{bits:g}", {"bits_per_weight": bits}, cost="calibration", unasked=because(_OTHER_BITS)) for bits in (4.0, 3.0, 2.0)),
        ),
        configs=(RateDistortion, SmoothNorms, Quantize), build=_compact,
        needs="a runtime that computes with integers, training data and a loss", when=can_round_in_training, unasked=packing_and_time_count,
        field="bits_per_weight", reads=rate, promise="high",
    ),
    Lever(
        "share_weights", "let weights take few values, which are then fine-tuned; a setting is the bits of a value's number",
        (Setting("5", {"bits": 5}), Setting("4", {"bits": 4})), configs=(ShareWeights,), build=_recovering(ShareWeights),
        needs="training data and a loss", when=can_train, unasked=packing_alone_counts, field="bits", reads=bits, varies={"bits": (2, 3, 4, 5, 6)},
    ),
    Lever(
        "rate_distortion", "choose the value of each weight by the loss and the bits that it costs; a setting is bits a weight",
        (Setting("2", {"bits_per_weight": 2.0}), Setting("1", {"bits_per_weight": 1.0}),
         *(Setting(f"{bits:g}-untrained", {"bits_per_weight": bits, **_UNTRAINED}, cost="calibration") for bits in (3.0, 2.0, 0.7))),
        configs=(RateDistortion,), build=_recovering(RateDistortion),
        needs="training data and a loss", when=can_train, unasked=packing_alone_counts, field="bits_per_weight", reads=rate, promise="high",
        varies={"bits_per_weight": Range(0.3, 4.0, log=True)},
    ),
)  # fmt: skip

# name -> what it does, its promise, where that is another one, and why it is tried where it is asked for only
_PRECISIONS: dict[str, tuple[str, str, Mapping[str, str], str]] = {
    "fp32": ("compute in floats of 32 bits, as the model was trained", "high", {}, ""),
    "bf16": ("compute in floats of 16 bits, where the processor has instructions for them", "fair", {"cuda": "high"}, ""),
    "fp16-weights": (
        "keep weights in floats of 16 bits and compute in 32, for half of the file",
        "low",
        {},
        "few runtimes have it; --try fp16-weights tries it",
    ),
}


@cache
def levers() -> dict[str, Lever]:
    """All levers by name, in the order of their stages: those of steps, precisions, the runtimes of `deploy.runtime`, threads, those of other packages."""
    rows = [
        *LEVERS,
        *(_deploying(name, "precision", *told) for name, told in _PRECISIONS.items() if name in PRECISIONS),
        *(_deploying(name, "runtime", f"run it in {one.title}", one.promise, one.promises, one.aside) for name, one in _runtimes()),
        _threads(),
    ]
    return extended(_by_name(rows), "laconic.levers", _read)


def _runtimes() -> list[tuple[str, runtime.Runtime]]:
    return [(name, runtime.runtime(name)) for name in runtime.names()]


def _threads() -> Lever:
    """The lever that gives runtimes fewer threads than there are cores."""
    fewer = dict.fromkeys((1, max(1, runtime.cores() // _QUARTER)))
    about = "compute on fewer threads than there are cores: in small layers they wait for each other for longer than they save"
    return Lever(
        "threads", about, tuple(Setting(str(n), {"threads": n}) for n in fewer), stage="threads", needs="more than one core; a budget that aims at time",
        when=threads_wait, field="threads", reads=count, promise="high",
    )  # fmt: skip


def _by_name(rows: Sequence[Lever]) -> dict[str, Lever]:
    """The rows by name.

    Raises:
        BadInput: a runtime of another package is called like a lever.
    """
    taken = [name for name, times in Counter(row.name for row in rows).items() if times > 1]
    if taken:
        raise BadInput(f"the name '{taken[0]}' is that of a lever and of a runtime. Rename the entry point of the group laconic.runtimes.")
    return {row.name: row for row in rows}


def _read(entry: EntryPoint) -> Lever:
    """The lever that an entry point names."""
    row = load(entry)
    if not isinstance(row, Lever) or row.name != entry.name:
        raise BadInput(f"'{entry.name}' of {origin(entry)} in the group {entry.group} is {row!r}; it must be a laconic.Lever of this name")
    return row


def _deploying(name: str, stage: str, about: str, promise: str, promises: Mapping[str, str], aside: str = "") -> Lever:
    """A lever that sets the field of the target that is called like its stage."""
    setting = Setting(name, {stage: name})
    return Lever(name, about, (setting,), stage=stage, family=f"{stage}s", promise=promise, promises=promises, aside=aside)

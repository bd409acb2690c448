"""When a lever makes sense: conditions of the table's rows, each a function of the surroundings: None where it does, else the reason why not."""

from __future__ import annotations

from laconic.core.operators import Family, family_of, plain_name
from laconic.deploy import runtime
from laconic.factorize.depth import run_lengths
from laconic.factorize.sites import large_share
from laconic.pruning.unstructured.patterns import FREE
from laconic.search.lever import Condition, Surroundings

_RECURRENT = ("lstm", "gru")
_FEW_LINEAR = 2  # linear layers, at the most, for which rounding each input's own range is not worth its time
_MOSTLY = 0.5  # of the multiply-adds that must be where a lever acts
_ENOUGH_BLOCKS = 4  # of a run
_SMALLER = "it makes the file smaller, not the model faster; tried where the budget is about size"


def because(reason: str) -> Condition:
    """Condition that nobody tries it unasked, for this reason."""
    return lambda around: reason


def can_train(around: Surroundings) -> str | None:
    """Training data and a loss."""
    if around.task.train is None:
        return "the task has no training data"
    return "the task has no loss to train with" if around.task.loss is None else None


def has_batch_norm(around: Surroundings) -> str | None:
    """Batch-norms, and a runtime that does not fold them itself."""
    if not _count(around, "batch norm"):
        return "the model has no batch-norm"
    here = runtime.runtime(around.target.runtime)
    return f"{here.title} folds batch-norms itself" if here.folds_batch_norm else None


def has_integers(around: Surroundings) -> str | None:
    """A runtime that computes with integers, on a processor."""
    here = runtime.runtime(around.target.runtime)
    if not here.quantizes:
        return f"{here.title} does not compute with integers"
    return None if around.target.device == "cpu" else f"integer kernels are for processors, not for {around.target.device}"


def is_dynamic(around: Surroundings) -> str | None:
    """A recurrent layer or several linear ones, whose inputs are rounded one by one."""
    recurrent = any(plain_name(node) in _RECURRENT for node in around.program.graph.nodes)
    if recurrent or _count(around, "linear") > _FEW_LINEAR:
        return None
    return f"the model has no recurrent layer and no more than {_FEW_LINEAR} linear layers"


def has_linear(around: Surroundings) -> str | None:
    """Several linear layers."""
    if _count(around, "linear") > _FEW_LINEAR:
        return None
    return f"4 bits are for linear layers, of which the model has no more than {_FEW_LINEAR}"


def size_counts(around: Surroundings) -> str | None:
    """A budget about the size of files."""
    if around.budget.names("size_bytes"):
        return None
    why = packing_alone_counts(around)
    return why if why is None or around.budget.names("packed_size_bytes") else _SMALLER


def zeros_count(around: Surroundings) -> str | None:
    """Zeros are bytes of a packed file in any case, and time where the runtime says so."""
    here = runtime.runtime(around.target.runtime)
    if here.fast_zeros or around.budget.names("packed_size_bytes"):
        return None if here.fast_zeros else packing_alone_counts(around)
    return f"{here.title} multiplies with zeros as with other numbers; tried where the budget is about the size of packed files"


def zeros_in(pattern: str) -> Condition:
    """Condition that zeros in this pattern are worth a candidate: elsewhere than in its runtimes none but single weights, the fewest bytes, are."""

    def condition(around: Surroundings) -> str | None:
        here = runtime.runtime(around.target.runtime)
        small = pattern == FREE and (not here.fast_zeros or around.budget.names("packed_size_bytes"))
        return None if small or pattern in here.fast_zeros else f"{here.title} is no faster with zeros in the pattern {pattern}"

    return condition


def packing_counts(around: Surroundings) -> str | None:
    """A budget about the size of archives."""
    if around.budget.names("packed_size_bytes"):
        return None
    return "it makes the packed file smaller, not the model faster or the file that runs smaller; tried where the budget is about the packed size"


def packing_alone_counts(around: Surroundings) -> str | None:
    """A budget about the size of archives that does not aim at time: for that, integers are as small and faster on a processor."""
    if packing_counts(around) is None and around.budget.goal.timed and around.target.device == "cpu":
        return "compact makes as small a file that computes in integers; tried where the budget does not aim at time"
    return packing_counts(around)


def packing_and_time_count(around: Surroundings) -> str | None:
    """A budget about the size of archives and about time."""
    slow = "its values in floats are as small and lose less; tried where the budget is about time too"
    timed = any(row.timed for row in around.budget.quantities())
    return packing_counts(around) or (None if timed else slow)


def can_round_in_training(around: Surroundings) -> str | None:
    """Integers, training data and a loss."""
    return has_integers(around) or can_train(around)


def has_blocks(around: Surroundings) -> str | None:
    """Residual blocks that repeat."""
    return can_train(around) or (None if run_lengths(around.program) else "the model has no run of alike residual blocks")


def blocks_pay(around: Surroundings) -> str | None:
    """Leaving blocks out was measured to pay in a Transformer, of which few blocks lose little (docs/factorization.md)."""
    longest = max(run_lengths(around.program), default=0)
    if longest >= _ENOUGH_BLOCKS:
        return None
    return f"no run of {_ENOUGH_BLOCKS} alike residual blocks or more, where it was measured to pay; --try drop_blocks tries it"


def has_large_layers(around: Surroundings) -> str | None:
    """Most of the multiply-adds in large layers."""
    share = large_share(around.program, kernels=False)
    return can_train(around) or (None if share >= _MOSTLY else _small(share, "layers of 64 channels or more on either side"))


def has_large_kernels(around: Surroundings) -> str | None:
    """Most of the multiply-adds in large kernels."""
    share = large_share(around.program, kernels=True)
    return can_train(around) or (None if share >= _MOSTLY else _small(share, "kernels of 64 channels or more on either side"))


def kernels_pay(around: Surroundings) -> str | None:
    """Low rank was measured to pay behind int8 where the work is in large kernels; of other models there is no such figure (docs/factorization.md)."""
    share = large_share(around.program, kernels=True)
    where = "large kernels, where it was measured to pay behind int8, see docs/factorization.md"
    return None if share >= _MOSTLY else f"only {100 * share:.0f} % of the multiply-adds are in {where}; --try low_rank tries it"


def _small(share: float, where: str) -> str:
    return f"only {100 * share:.0f} % of the multiply-adds are in {where}, where there is something to save"


def threads_wait(around: Surroundings) -> str | None:
    """Threads wait for each other at each operator, for longer than a small one takes."""
    if around.target.device != "cpu":
        return "it is about the threads of a processor"
    if not around.budget.goal.timed:
        return "it makes nothing smaller; tried where the budget aims at time"
    return None if runtime.cores() > 1 else "there is one core"


def _count(around: Surroundings, family: Family) -> int:
    return sum(family_of(node) == family for node in around.program.graph.nodes)

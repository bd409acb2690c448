"""Rate–distortion quantization: the value of each weight is chosen by the loss that it costs and by the bits that a coder spends on it.

Entropy-constrained scalar quantization (Chou, Lookabaugh & Gray 1989) with the loss's curvature as the weight of squared errors (Choi et al. 2017, section 4).
What a symbol costs depends on how often it is used, and how often it is used on what it costs: both are settled in turns.

Shapes: n numbers of a weight, k levels that they may take, level 0 at `zero` among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.operators import outputs_first
from laconic.core.plan import FitPlan, frozen_plan, out_of_range, with_plan
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.step import Stage, StepConfig, step
from laconic.core.task import Task
from laconic.core.weights import StoredWeight
from laconic.storage.codebook import codebook
from laconic.storage.compensate import compensated, grams
from laconic.storage.context import MOST_NUMBERS
from laconic.storage.curvature import curvature, mean_loss
from laconic.storage.figures import coded_bits, row, totals
from laconic.storage.share import Tuning, array, chosen_weights, folded

_TURNS = 20
_CHUNK = 1 << 22  # numbers times levels that are compared at once
_BITS_PER_WEIGHT = 2.0
_FAR, _FINEST = 2.0, 2**15  # a step so many times what is asked for is none; levels on a side where there is no other bound
_LEAST_BITS, _MOST_BITS = 1.0, 6.0  # that a limit of bytes is read as
_CORRECTIONS, _CLOSE = 5, 0.97  # of bits at prices by those that the coder spends
_UNFELT = "the loss on the examples does not depend on it: nothing says which values would do"
_SLOPES, _BISECTIONS = (1e-9, 1e3), 18  # of the search, in units of a number's mean loss: a factor of 1e12 in steps of 0.01 %


@dataclass(frozen=True)
class Prices:
    """What a coder spends, in bits: on whether a number is zero, which depends on where it stands, and on its level if it is not.

    Attributes:
        zero: (n,), of a zero.
        other: (n,), of saying that it is none.
        level: (k,), of each level on top of that; 0 for the zero.
    """

    zero: Tensor
    other: Tensor
    level: Tensor

    def at(self, places: Tensor) -> Prices:
        """Return those of the numbers at some places."""
        return Prices(self.zero[places], self.other[places], self.level)

    def of(self, codes: Tensor, zero: int) -> Tensor:
        """Return the bits of each number (n,) under these codes."""
        return torch.where(codes == zero, self.zero, self.other) + self.level[codes]


def prices(codes: Tensor, k: int, zero: int, shape: Sequence[int]) -> Prices:
    """Return what a coder that has seen these codes spends on each number.

    The chance that a number is not zero is that of its row and its column (dimensions 0 and 1) together: the shares of the other numbers there that are not
    zero, each with one number of the mean added. So a number in a row or column of zeros is dear, and one among others is cheap, as for coders with context.

    Args:
        codes: (n,), the numbers of levels.
        k: how many levels there are.
        zero: which is that of zeros.
        shape: of the weight.
    """
    used = (codes != zero).float().view((*shape[:2], -1) if len(shape) > 1 else (1, -1, 1))
    rows, columns, inner = used.shape
    mean = used.mean().clamp(1e-6, 1 - 1e-6)
    in_row = (used.sum((1, 2), keepdim=True) - used + mean) / (columns * inner)
    in_column = (used.sum((0, 2), keepdim=True) - used + mean) / (rows * inner)
    odds = torch.logit(in_row) + torch.logit(in_column) - torch.logit(mean)
    chance = torch.sigmoid(odds).clamp(1e-6, 1 - 1e-6)
    counts = torch.bincount(codes[codes != zero], minlength=k).double() + 0.5
    level = -torch.log2(counts / counts.sum())
    level[zero] = 0.0
    zeros, others = (-torch.log2(each).flatten().float() for each in (1 - chance, chance))
    return Prices(zeros, others, level.float())


def choose(values: Tensor, levels: Tensor, importance: Tensor, slope: float, shape: Sequence[int]) -> tuple[Tensor, float]:
    """Choose the level of each number: the least of half the squared error times its importance, plus `slope` times its bits.

    Args:
        values: (n,); those that are 0 stay 0.
        levels: (k,), ascending, a 0 among them.
        importance: (n,), the loss's second derivative.
        slope: how much loss a bit is worth; 0 takes the nearest level.
        shape: of the weight.

    Returns:
        The codes (n,), and the bits that they take together.
    """
    zero = int((levels == 0).nonzero()[0])
    if not slope:
        codes = torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)
        return codes, float(prices(codes, len(levels), zero, shape).of(codes, zero).sum())
    alive = (values != 0).nonzero().flatten()
    values, importance = values[alive], importance[alive]
    codes = torch.full((math.prod(shape),), zero, device=values.device)
    for turn in range(_TURNS):
        bits = prices(codes, len(levels), zero, shape).at(alive) if turn else None
        now = _least(values, levels, importance, bits, slope, zero)
        if turn and torch.equal(now, codes[alive]):
            break
        codes[alive] = now
    return codes, float(prices(codes, len(levels), zero, shape).of(codes, zero).sum())


def _least(values: Tensor, levels: Tensor, importance: Tensor, bits: Prices | None, slope: float, zero: int) -> Tensor:
    """Return the cheapest level of each number; the nearest where nothing has a price."""
    result = [torch.zeros(0, dtype=torch.long, device=values.device)]
    step_size = max(1, _CHUNK // len(levels))
    for start in range(0, len(values), step_size):
        part = slice(start, start + step_size)
        cost = 0.5 * importance[part, None] * (values[part, None] - levels[None]).square()
        if bits is not None:
            spent = bits.level[None] + bits.other[part, None]
            spent[:, zero] = bits.zero[part]
            cost = cost + slope * spent
        result.append(cost.argmin(1))
    return torch.cat(result)


def grid(values: Tensor, bits: int, kind: str, importance: Tensor) -> Tensor:
    """Return the levels (2^bits - 1,) that numbers may take, ascending, a 0 among them; fewer where there are fewer different numbers.

    Args:
        values: (n,).
        bits: how many levels.
        kind: ``uniform`` or ``codebook``; see `RateDistortion`.
        importance: (n,), of each number's squared error.
    """
    kept = values != 0
    if not bool(kept.any()):
        return torch.zeros(1, device=values.device)
    most = 2 ** (bits - 1) - 1
    if kind == "uniform":
        return torch.arange(-most, most + 1, device=values.device) * (values.abs().max() / most)
    found = codebook(array(values[kept]), 2 * most, weights=array(importance[kept]))
    return torch.cat([torch.from_numpy(found.centers).to(values), torch.zeros(1, device=values.device)]).unique()


def stepped(values: Tensor, importance: float, slope: float, most: int) -> Tensor:
    """Return multiples of the step that a slope asks for, ascending, 0 in the middle: at least one on each side, at most `most`.

    There are more where few numbers are so large that with `most` the step would be twice what is asked for: it would round the others away.

    Where numbers are many to a step, a step of Δ costs h Δ² / 24 of loss, h the importance, and one twice as wide saves a bit: the least loss for the bits is
    where the loss of a bit is the slope, Δ² = 12 slope / (h ln 2) (Gish and Pierce 1968). So weights that matter have fine steps, and others coarse ones.
    Each number then takes the nearest multiple: to choose by bits moves all numbers of a filter toward 0 together, which without training costs far more than
    a sum over single numbers tells. Where the layer's inputs are known, later numbers make up for what earlier ones err (`storage.compensate`).

    Args:
        values: (n,).
        importance: of a number's squared error, on average.
        slope: how much loss a bit is worth.
        most: levels on each side of 0.
    """
    largest = float(values.abs().max())
    asked, coarsest = math.sqrt(12 * slope / (importance * math.log(2))), largest / most
    few_are_large = 0 < asked < coarsest / _FAR
    step_size = max(largest / _FINEST if few_are_large else coarsest, asked) or 1.0
    side = max(1, round(largest / step_size))
    return torch.arange(-side, side + 1, device=values.device) * step_size


@with_plan("recovery")
@dataclass(frozen=True)
class RateDistortion(StepConfig):
    """Rate–distortion quantization. At most one of the next four says how far it goes; without any it goes to two bits a weight.

    Batch-norms are folded before, as by `ShareWeights`.

    Args:
        bits_per_weight: that a coder with context is expected to spend on a number, zeros included, on average over all weights.
        packed_mb: megabytes (10^6 bytes) that all parameters may take together, of which those that stay as they are take 32 bits each: 1 to 6 bits are
            what that leaves a number here, for more win nothing.
        loss_rise: how much the mean loss on the valid data (where there are none: the train data's examples) may rise before the rest is fine-tuned.
        slope: how much loss a bit is worth.
        bits: of the grid: 2^bits - 1 levels.
        grid: ``uniform``, around 0, up to the largest number; ``stepped``, of a step that the slope and the weight's curvature tell, best without recovery,
            with `bits` (best 8) as its bound but where a few large numbers would then round the others away; or a ``codebook`` of k-means and 0, the values
            of which move to the means of their numbers.
        keep: module paths, or names of weights, that stay as they are.
        biases: choose their values too.
        examples: of the train data, for the curvature of the loss.
        recovery: as of `ShareWeights`.
    """

    stage: ClassVar[Stage] = "rounding"
    trains: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    section: ClassVar[str] = "sharing"

    bits_per_weight: float | None = None
    packed_mb: float | None = None
    loss_rise: float | None = None
    slope: float | None = None
    bits: int = 5
    grid: Literal["uniform", "stepped", "codebook"] = "uniform"
    keep: tuple[str, ...] = ()
    biases: bool = False
    examples: int = 256
    recovery: FitPlan | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        goals = {name: getattr(self, name) for name in ("bits_per_weight", "packed_mb", "loss_rise", "slope")}
        given = {name: value for name, value in goals.items() if value is not None}
        mistakes = [f"recovery.{mistake}" for mistake in out_of_range(self.recovery)]
        if len(given) > 1:
            mistakes.append(f"one of {', '.join(goals)} says how far it goes; {' and '.join(given)} are given")
        mistakes += [
            f"{name}: {value} must be {'0 or more' if name == 'slope' else 'more than 0'}"
            for name, value in given.items()
            if not (value > 0 or (value == 0 and name == "slope"))
        ]
        if not 2 <= self.bits <= 8:
            mistakes.append(f"bits: {self.bits} must be 2 to 8")
        if self.examples < 1:
            mistakes.append(f"examples: {self.examples} must be 1 or more")
        if mistakes:
            raise BadInput("rate–distortion quantization so makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        object.__setattr__(self, "recovery", frozen_plan(self.recovery))

    def fills(self) -> bool:
        """Return whether megabytes say how far it goes."""
        return self.packed_mb is not None

    def words(self) -> str:
        """Return the step and how far it goes: `rate distortion to 2 bits a weight`, `… to 0.5 MB`, and whether it leaves training out."""
        bits = _BITS_PER_WEIGHT if self.bits_per_weight is None else self.bits_per_weight
        goal = f"to {bits:g} bit{'s' * (bits != 1)} a weight"
        if self.packed_mb is not None:
            goal = f"to {self.packed_mb:g} MB"
        elif self.loss_rise is not None:
            goal = f"to a loss {self.loss_rise:g} higher"
        elif self.slope is not None:
            goal = f"at {self.slope:g} of loss a bit"
        return f"rate distortion {goal}" + ("" if self.trained() else ", untrained")


@step("rate_distortion", RateDistortion, float32=True)
def rate_distortion(
    program: Program, config: RateDistortion | None = None, context: Context | Task | None = None
) -> tuple[Program, Outcome]:
    """Choose the values of a copy's weights by loss and bits, and fine-tune those that are left.

    Args:
        program: best pruned before.
        config: how.
        context: with a task that has train data and a loss, and with `fit`, unless nothing is fine-tuned.

    Returns:
        A program with batch-norms folded and else of the same operators, the weights of which have few different values, many of them 0, and what each became.

    Raises:
        BadInput: it has no stored weight, a path names none, there is no data or loss, or a loss that cannot be kept.
        TrainingStopped: the loss became NaN.
    """
    config, context = config or RateDistortion(), context if isinstance(context, Context) else Context(task=context)
    tuning = Tuning("rate_distortion", config.recovery, context)
    result, notes = folded(program)
    weights, skipped = chosen_weights(result, config.keep, config.biases)
    bends = curvature(result, [weight.parameter for weight in weights], context, config.examples)
    felt = [(weight, bend) for weight, bend in zip(weights, bends, strict=True) if bool(bend.any())]
    skipped += [Skipped(weight.name, _UNFELT) for weight, bend in zip(weights, bends, strict=True) if not bool(bend.any())]
    if not felt:
        raise BadInput(
            f"no weight can be chosen: {_UNFELT}. Look at the loss, and give the task examples on which the model errs or is unsure."
        )
    mean = float(sum(bend.double().sum() for _, bend in felt)) / sum(bend.numel() for _, bend in felt)
    weights = [weight for weight, _ in felt]
    inputs = grams(result, weights, context, config.examples) if config.grid == "stepped" else [None] * len(felt)
    sites = [_Site.of(weight, bend, gram, config, mean) for (weight, bend), gram in zip(felt, inputs, strict=True)]
    plan = _Plan(sites, config.grid == "codebook")
    context.progress.start("choosing values by loss and bits", 1)
    slope, bits = _settled(plan, config, result, context)
    context.progress.finish()
    rows = [row(site.weight, site.before, plan.fast) for site in plan.sites]
    expected = bits / plan.numbers
    epochs = tuning.run(result, weights, program)
    changed = {"grid": config.grid, "slope": slope, "bits_per_weight": expected, **totals(rows), "weights": rows, "epochs": epochs}
    return result, Outcome("rate_distortion", changed, tuple(skipped), notes)


@dataclass(frozen=True)
class _Site:
    """A weight with its numbers before (as it was, and flat), what they may become, how much each matters, and what its layer's inputs look like together."""

    weight: StoredWeight
    before: Tensor
    levels: Tensor
    importance: Tensor
    most: int  # levels on each side of a grid whose step the slope tells; 0 of others
    matters: float  # for that step
    gram: Tensor | None  # None: numbers are rounded one by one

    @classmethod
    def of(cls, weight: StoredWeight, bend: Tensor, gram: Tensor | None, config: RateDistortion, mean: float) -> _Site:
        """Return a weight with what it may become; the curvature of few examples tells too well apart what matters, so steps take its mean with that of all."""
        before, matters = weight.parameter.detach().clone(), math.sqrt(float(bend.mean()) * mean)
        if config.grid == "stepped":
            return cls(weight, before, torch.zeros(1), bend.flatten(), 2 ** (config.bits - 1) - 1, matters, gram)
        return cls(weight, before, grid(before.flatten(), config.bits, config.grid, bend.flatten()), bend.flatten(), 0, matters, gram)

    @torch.no_grad()
    def put(self, slope: float, moving: bool, settled: bool = False) -> float:
        """Give the weight the values that this slope chooses; return their bits.

        Args:
            slope: how much loss a bit is worth.
            moving: whether levels go to the means of their numbers.
            settled: whether the slope stands: then numbers make up for each other's errors, where that is known how. It takes its time, and bits hardly change.
        """
        flat, shape = self.before.flatten(), self.before.shape
        levels = stepped(flat, self.matters, slope, self.most) if self.most else self.levels
        if settled and self.gram is not None:
            flat = self._compensated(levels)
        codes, bits = choose(flat, levels, self.importance, 0.0 if self.most else slope, shape)
        if moving:
            levels = _centered(flat, codes, levels, self.importance)
        self.weight.parameter.copy_(levels[codes].view(shape))
        return bits

    def _compensated(self, levels: Tensor) -> Tensor:
        """Return the numbers (n,) at levels that make up for each other's errors; what is 0 stays 0."""
        assert self.gram is not None
        matrix = outputs_first(self.before, self.weight.reader)
        alive, edges, wide = matrix.flatten(1) != 0, ((levels[1:] + levels[:-1]) / 2).double(), levels.double()
        done = compensated(matrix.flatten(1), self.gram, lambda values, j: wide[torch.bucketize(values, edges)] * alive[:, j])
        return outputs_first(done.view(matrix.shape), self.weight.reader).flatten()


def _centered(values: Tensor, codes: Tensor, levels: Tensor, importance: Tensor) -> Tensor:
    """Return each level but 0 at the mean of its numbers, by their importance."""
    mass = torch.bincount(codes, importance.double(), len(levels))
    moment = torch.bincount(codes, (importance * values).double(), len(levels))
    return torch.where((mass > 0) & (levels != 0), (moment / mass.clamp(min=1e-300)).to(levels), levels)


@dataclass(frozen=True)
class _Plan:
    """All weights whose values are chosen together, at one slope."""

    sites: Sequence[_Site]
    moving: bool

    @property
    def numbers(self) -> int:
        return sum(len(site.importance) for site in self.sites)

    @property
    def fast(self) -> bool:
        """Whether they are so many that the archive's coder tries nothing slow."""
        return self.numbers > MOST_NUMBERS

    @property
    def scale(self) -> float:
        """Half the mean of importance times square: about what it costs to lose a number."""
        return sum(float((site.importance * site.before.flatten().square()).double().sum()) for site in self.sites) / (2 * self.numbers)

    def put(self, slope: float) -> float:
        """Give all weights the values that this slope chooses; return the bits of all at their prices."""
        return sum(site.put(slope, self.moving) for site in self.sites)

    def spent(self, slope: float) -> float:
        """Do the same, and return the bits that the archive's coder spends, at their prices for weights that it cannot be asked about."""
        priced = [site.put(slope, self.moving, settled=True) for site in self.sites]
        coded = [coded_bits(site.weight.parameter, self.fast) for site in self.sites]
        return sum(price if bits is None else bits for price, bits in zip(priced, coded, strict=True))


def _settled(plan: _Plan, config: RateDistortion, program: Program, context: Context) -> tuple[float, float]:
    """Settle the weights at the slope that is given, the largest that keeps the loss, or the least that reaches the bits; return it and the bits spent."""
    rise = config.loss_rise
    if config.slope is not None:
        return config.slope, plan.spent(config.slope)
    if rise is None:
        return _reaching(_bits_asked(plan, config, program), plan)
    before = mean_loss(program, context, config.examples)

    def lost(slope: float) -> bool:
        plan.put(slope)
        return mean_loss(program, context, config.examples) > before + rise

    slope = _turning_point(lost, plan.scale)[0]
    return slope, plan.spent(slope)


def _bits_asked(plan: _Plan, config: RateDistortion, program: Program) -> float:
    """Return the bits that all numbers together may take."""
    if config.packed_mb is None:
        return (config.bits_per_weight or _BITS_PER_WEIGHT) * plan.numbers
    others = sum(parameter.numel() for parameter in program.parameters()) - plan.numbers
    each = (8e6 * config.packed_mb - 32 * others) / plan.numbers
    return plan.numbers * min(_MOST_BITS, max(_LEAST_BITS, each))


def _reaching(bits: float, plan: _Plan) -> tuple[float, float]:
    """Settle the weights at the least slope at which they take so many bits, of the coder itself where it can be asked; return it and the bits spent."""
    aim, priced = bits, cache(plan.put)  # searches for aims close to each other pass the same slopes
    for _ in range(_CORRECTIONS):
        slope = _turning_point(lambda slope, aim=aim: priced(slope) <= aim, plan.scale)[1]  # type: ignore[misc]
        spent = plan.spent(slope)
        if _CLOSE * bits <= spent <= bits or not slope:
            break
        aim *= bits / max(spent, 1.0)
    return slope, spent


def _turning_point(far_enough: Callable[[float], bool], scale: float) -> tuple[float, float]:
    """Return two slopes close to each other, at the lower of which it is not yet so, and at the higher it is.

    Where it is so from the start, both are 0; where it is never so, both are the largest.
    """
    if far_enough(0.0):
        return 0.0, 0.0
    low, high = (scale * end for end in _SLOPES)
    if not far_enough(high):
        return high, high
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if far_enough(middle) else (middle, high)
    return low, high

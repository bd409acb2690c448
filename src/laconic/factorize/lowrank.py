"""Low rank as a step: layers become chains of cheaper ones, each near to what it was on the inputs that it sees."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic.core.choices import Kind
from laconic.core.context import Context
from laconic.core.errors import BadInput, Mistakes, nearest
from laconic.core.fields import FrozenMapping
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.step import StepConfig, step
from laconic.core.task import Task
from laconic.factorize.following import Following
from laconic.factorize.method import Method
from laconic.factorize.methods import METHODS, allowed
from laconic.factorize.ranks import Cost, Limits, Option, by_budget, by_energy, by_name, options, read
from laconic.factorize.reached import reached
from laconic.factorize.replacing import batches_of, check_any, moments_of, outcome, replaced
from laconic.factorize.sites import Site, find

# Levels of ranks that are looked at: each is measured where time counts.
_FEW, _MANY = 8, 32
_GOALS = {
    "macs": "to {share} of the multiply-adds",
    "params": "to {share} of the parameters",
    "latency": "to {share} of the layers' time",
    "energy": "with {share} of each layer's energy",
    "rank": "at {share} of the full ranks",
}
_GIVEN = "given"  # what is told where ranks are named


@dataclass(frozen=True)
class LowRank(StepConfig):
    """Low rank: which layers become chains, and of which ranks. One of the first six says how far; half of the multiply-adds where none does.

    Args:
        macs: share of the model's multiply-adds to be kept.
        params: share of its parameters to be kept.
        latency: share of its layers' measured time on the target to be kept.
        energy: share of the mean square of each layer's output to be kept; the cheapest chain that does is taken.
        rank: share of each layer's full rank, whether that makes it cheaper or not; 1 is exact.
        ranks: instead of a share, method and ranks by the layer's module path: ``{"layer3.0.conv1": "spatial 24"}``; ``tucker`` has two, ``"tucker 16x24"``.
            Layers that are not named stay; of ranks above the full ones, these.
        bits: of the integers in which layers are timed, 8 where the model is rounded afterwards; None: in floats.
        methods: those that are tried for each layer, names in `methods.METHODS`; of linear layers it is always `output`, of transposed convolutions `input`.
        weighted: errors count by what they do to the output on the task's data; else all weights count alike, and so they do without a task.
        follow: each layer is fitted to what it put out before from what it reads now, behind the layers that were rewritten before it.
        damping: of the inputs' second moments: this share of their mean is added to each.
        multiple: of ranks, for kernels like some better than others.
        floor: share of the full rank that is kept in any case.
        saves: a layer is rewritten only if at least this share of its own cost goes.
        only: module paths outside of which all stays; empty: the whole model.
        freeze: module paths that stay.
        examples: of the train data that are looked at.
    """

    calibrates: ClassVar[bool] = True
    section: ClassVar[str] = "factorization"

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    energy: float | None = None
    rank: float | None = None
    ranks: Mapping[str, str] | None = None
    bits: int | None = None
    methods: tuple[str, ...] = ("output", "input", "spatial", "tucker")
    weighted: bool = True
    follow: bool = True
    damping: float = 0.01
    multiple: int = 8
    floor: float = 0.05
    saves: float = 0.1
    only: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    examples: int = 256

    def __post_init__(self) -> None:
        given = [name for name in _GOALS if getattr(self, name) is not None]
        mistakes = [f"one of {', '.join(_GOALS)} says how far; given: {', '.join(given)}"] if len(given) > 1 else []
        mistakes += [
            f"{name}: {getattr(self, name)} is a share; it lies above 0 and is 1 at most"
            for name in given
            if not 0 < getattr(self, name) <= 1
        ]
        mistakes += self._wrong_ranks(given)
        mistakes += [f"methods: '{name}'." + nearest(name, METHODS) for name in self.methods if name not in METHODS]
        if not self.methods:
            mistakes.append(f"methods: at least one of {', '.join(METHODS)}")
        if not 0 <= self.floor <= 1 or not 0 <= self.saves < 1 or not self.damping > 0:
            mistakes.append("floor and saves are shares, and damping lies above 0")
        if self.bits not in (None, 8):
            mistakes.append(f"bits: {self.bits}; layers are timed in integers of 8 bits, or in floats (None)")
        if self.multiple < 1 or self.examples < 1:
            mistakes.append("multiple and examples must be 1 or more")
        if mistakes:
            raise BadInput("the low rank makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        object.__setattr__(self, "ranks", None if self.ranks is None else FrozenMapping(self.ranks))

    def _wrong_ranks(self, given: Sequence[str]) -> Iterator[str]:
        if self.ranks is None:
            return
        if given:
            yield f"ranks: says which ranks layers have, so {given[0]} has nothing to decide. Give one of them"
        if not self.ranks:
            yield "ranks: names no layer. Leave it out, or say a layer's chain: {'layer3.0.conv1': 'spatial 24'}"
        for path, chain in self.ranks.items():
            try:
                method, _ = read(chain)
            except ValueError as error:
                yield f"ranks.{path}: {error}"
            else:
                if method not in METHODS:
                    yield f"ranks.{path}: '{method}'." + nearest(method, METHODS)

    @property
    def goal(self) -> tuple[str, float]:
        """How far: what is kept, and its share."""
        given = [(name, value) for name in _GOALS if (value := getattr(self, name)) is not None]
        return given[0] if given else ("macs", 0.5)

    def choices(self) -> Mapping[tuple[Kind, str], int | str] | None:
        """Return each layer's chain, where that is said."""
        return None if self.ranks is None else {("rank", path): chain for path, chain in self.ranks.items()}

    def words(self) -> str:
        """Return how far: `low rank to 50 % of the multiply-adds`, `low rank of 3 layers`."""
        if self.ranks is not None:
            return f"low rank of {len(self.ranks)} layer{'s' * (len(self.ranks) > 1)}"
        name, share = self.goal
        return "low rank " + _GOALS[name].format(share=f"{100 * share:g} %")

    def depends_on_target(self) -> bool:
        """Return whether layers are timed on the target."""
        return self.latency is not None


@step("low_rank", LowRank)
def low_rank(program: Program, config: LowRank | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Replace layers of a copy of a program by chains of low rank, in closed form and without training.

    Args:
        program: in eval mode; not changed.
        config: how far, and by which ways.
        context: or the task alone, whose data weigh the errors; `latency` needs `price`.

    Returns:
        A cheaper program, and by layer the ranks, multiply-adds and parameters before and after, and the error of its output; layers that stay with the reason.

    Raises:
        BadInput: no layer can be rewritten, a budget that cannot be kept, `price` is missing, values that are not finite.
    """
    config = config or LowRank()
    context = context if isinstance(context, Context) else Context(task=context)
    result = copy.deepcopy(program).eval()
    sites, skipped = find(result, config.only, config.freeze)
    if config.ranks is not None:
        sites = _named(sites, skipped, config.ranks)
    check_any(sites, skipped)
    batches = batches_of(result, context if config.weighted else None, config.examples)
    counting = reached(result, [site.node for site in sites], batches)
    moments = moments_of(result, sites, batches, counting, config.damping, context.progress)
    asked = [config.methods if config.ranks is None else tuple(METHODS) for _ in sites]
    methods = [allowed(site.weight, site.transposed, names, moment) for site, names, moment in zip(sites, asked, moments, strict=True)]
    chosen = _chosen(result, sites, methods, config, context)
    following = Following(program, result, batches if config.follow else (), config.damping, counting)
    rows: list[dict[str, Any]] = []
    for site, moment, own, option in zip(sites, moments, methods, chosen, strict=True):
        if option is None:
            reason = "none of the methods fits it" if not own else "no rank that loses little enough makes it cheaper"
            skipped.append(Skipped(site.path, reason))
        else:
            rows.append(replaced(site, *following(site, moment), METHODS[option.method], option.method, option.ranks))
    goal = config.goal if config.ranks is None else (_GIVEN, None)
    return outcome("low_rank", goal, program, result, rows, skipped, weighted=bool(batches))


def _named(sites: Sequence[Site], skipped: Sequence[Skipped], ranks: Mapping[str, str]) -> list[Site]:
    """Return the layers for which ranks are given.

    Raises:
        BadInput: every name that no such layer has.
    """
    reasons = {one.name: one.reason for one in skipped}
    paths = [site.path for site in sites]
    mistakes = [
        f"ranks.{path}: the layer cannot be rewritten: {reasons[path]}"
        if path in reasons
        else f"ranks.{path}: no such layer." + nearest(path, paths)
        for path in ranks
        if path not in paths
    ]
    if mistakes:
        raise Mistakes("ranks: layers cannot be written as such chains:", mistakes)
    return [site for site in sites if site.path in ranks]


def _chosen(
    program: Program, sites: Sequence[Site], methods: Sequence[Mapping[str, Method]], config: LowRank, context: Context
) -> list[Option | None]:
    """Return for each layer its chain, or None where it stays."""
    if config.ranks is not None:
        return [by_name(site.path, own, config.ranks[site.path]) for site, own in zip(sites, methods, strict=True)]
    name, share = config.goal
    limits = Limits(config.multiple, config.floor, _FEW if name == "latency" else _MANY, config.saves)
    if name == "rank":
        firsts = (next(iter(own.items()), None) for own in methods)
        return [None if first is None else Option(first[0], first[1].at(share, limits.rounded), 0.0, 0.0) for first in firsts]
    cost = Cost(name, context.price, config.bits)
    choices = [options(site, own, cost, limits) for site, own in zip(sites, methods, strict=True)]
    if name == "energy":
        return [by_energy(own, share) for own in choices]
    whole = [cost(site, site.whole) for site in sites]
    return by_budget(choices, whole, share, cost.rest(program, sites))

"""Which chain each layer gets, and of which rank: so much of the output's energy, or so much of the whole cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from laconic.core.errors import BadInput
from laconic.core.macs import LayerShape
from laconic.core.operators import family_of
from laconic.core.program import Program
from laconic.factorize.method import Form, Method, Ranks
from laconic.factorize.sites import Site, model_params, multiplying

_STEPS = 60


@dataclass(frozen=True)
class Option:
    """One chain for one layer, not made yet: `lost` is the share of the output's mean square that it loses."""

    method: str
    ranks: Ranks
    cost: float
    lost: float


def written(method: str, ranks: Ranks) -> str:
    """Return a chain as it is asked for.

    >>> written("spatial", (24,)), written("tucker", (16, 24))
    ('spatial 24', 'tucker 16x24')
    """
    return f"{method} {'x'.join(map(str, ranks))}"


def read(chain: str) -> tuple[str, Ranks]:
    """Return method and ranks of a chain that is asked for.

    Raises:
        ValueError: it is not written so; says how.

    >>> read("tucker 16x24")
    ('tucker', (16, 24))
    """
    method, _, ranks = chain.strip().partition(" ")
    found = [rank.strip() for rank in ranks.split("x")]
    if not all(rank.isdecimal() and int(rank) > 0 for rank in found):
        raise ValueError(f"'{chain}' is not a method and its ranks, such as 'spatial 24' or 'tucker 16x24'")
    return method, tuple(map(int, found))


@dataclass(frozen=True)
class Limits:
    """Which ranks may be: multiples that kernels like, at least a share of the full one, in so many levels; and by how much a layer must get cheaper."""

    multiple: int = 8
    floor: float = 0.05
    levels: int = 32
    saves: float = 0.1

    def ladder(self, full: Ranks) -> list[Ranks]:
        """Return ranks below the full ones, of several in proportion.

        >>> Limits(levels=4).ladder((64,)), Limits(multiple=8).ladder((16, 32))
        ([(16,), (32,), (48,), (64,)], [(8, 8), (8, 16), (16, 24), (16, 32)])
        """
        top = max(full)
        step = self.multiple * max(1, math.ceil(top / self.multiple / self.levels))
        shares = [count / top for count in range(step, top + 1, step)]
        rungs = (tuple(self.rounded(share, one) for one in full) for share in shares if share >= self.floor)
        return list(dict.fromkeys(rungs))

    def rounded(self, share: float, full: int) -> int:
        """Return the nearest rank that may be."""
        return min(full, max(1, round(share * full / self.multiple)) * self.multiple)


class Cost:
    """What chains cost: weights where the goal is parameters, milliseconds on the target where it is latency, else the multiply-adds of one example.

    Args:
        goal: what counts.
        price: the milliseconds of a layer.
        bits: of the integers in which layers will compute when they are timed so.

    Raises:
        BadInput: time counts and nobody says what layers take.
    """

    def __init__(self, goal: str, price: Callable[[LayerShape], float] | None, bits: int | None = None) -> None:
        if goal == "latency" and price is None:
            raise BadInput("latency needs the time of layers on the target: Context(price=laconic.latency_table(target))")
        self.goal, self.price, self.bits = goal, price, bits

    def __call__(self, site: Site, forms: Sequence[Form]) -> float:
        """Return the cost of a chain in the place of a layer."""
        if self.goal == "params":
            return float(sum(math.prod(shape) for shape, _, _ in forms))
        layers = site.layers(forms)
        if self.goal != "latency" or self.price is None:
            return float(sum(layer.macs for layer in layers))
        return sum(self.price(replace(layer, bits=self.bits)) for layer in layers)

    def rest(self, program: Program, sites: Sequence[Site]) -> float:
        """Return the cost of what is not in these layers."""
        if self.goal == "params":
            return float(model_params(program) - sum(site.stored.numel() for site in sites))
        ours = {site.node for site in sites}
        others = [(str(family_of(node)), macs) for node, macs in multiplying(program) if node not in ours]
        if self.goal != "latency" or self.price is None:
            return float(sum(macs for _, macs in others))
        return sum(self.price(LayerShape(family, (), (), macs, bits=self.bits)) for family, macs in others)


def options(site: Site, methods: Mapping[str, Method], cost: Cost, limits: Limits) -> list[Option]:
    """Return the chains by which a layer gets cheaper."""
    whole = cost(site, site.whole)
    result = []
    for name, method in methods.items():
        for ranks in method.ladder(limits.ladder):
            spent = cost(site, method.shapes(ranks))
            if spent <= (1 - limits.saves) * whole:
                result.append(Option(name, ranks, spent, method.lost(ranks)))
    return result


def by_name(path: str, methods: Mapping[str, Method], chain: str) -> Option:
    """Return the chain that was asked for, of the full ranks at the most: the layer may have lost channels since.

    Args:
        path: of the layer, in errors.
        methods: that the layer allows.
        chain: as `read` takes it.

    Raises:
        BadInput: the layer allows no such method, or it has another number of ranks.
    """
    name, ranks = read(chain)
    method = methods.get(name)
    if method is None or len(method.full) != len(ranks):
        ways = ", ".join(f"{own} with {len(known.full)} rank{'s' * (len(known.full) > 1)}" for own, known in methods.items()) or "none"
        raise BadInput(f"ranks.{path}: '{chain}' is no chain of this layer, which allows {ways}")
    return Option(name, tuple(map(min, ranks, method.full)), 0.0, 0.0)


def by_energy(choices: Iterable[Option], energy: float) -> Option | None:
    """Return the cheapest chain that keeps this share of the output's mean square."""
    return min((option for option in choices if option.lost <= 1 - energy), key=lambda option: (option.cost, option.lost), default=None)


def by_budget(choices: Sequence[Sequence[Option]], whole: Sequence[float], share: float, rest: float = 0.0) -> list[Option | None]:
    """Return for each layer its chain, or None where it stays, so that the model keeps to its budget and the product of kept energies is largest.

    The product is that of Zhang et al. 2016, section 3.3, over all layers; the search is by a common price of the cost (a Lagrange multiplier), so nothing
    that costs as much loses less.

    Args:
        choices: of each layer.
        whole: what each costs as it is.
        share: of the model's cost that may be left.
        rest: the cost of what is not in these layers.

    Raises:
        BadInput: they cannot get that cheap.
    """
    total_before = sum(whole) + rest

    def at(price: float) -> list[Option | None]:
        result: list[Option | None] = []
        for own, cost in zip(choices, whole, strict=True):
            best = min(own, key=lambda option: _worth(option) + price * option.cost, default=None)
            result.append(best if best is not None and _worth(best) + price * best.cost < price * cost else None)
        return result

    def total(chosen: Sequence[Option | None]) -> float:
        return rest + sum(cost if option is None else option.cost for option, cost in zip(chosen, whole, strict=True))

    least = rest + sum(min([cost, *(option.cost for option in own)]) for own, cost in zip(choices, whole, strict=True))
    if least > share * total_before:
        raise BadInput(
            f"the budget cannot be kept: {share:.2f} of the whole was asked for, and with the lowest ranks {least / total_before:.2f} are left. "
            "Allow lower ranks (floor, multiple, saves) or more methods, or keep more."
        )
    low, high = 0.0, 1.0 / max(min(whole, default=1.0), 1e-12)
    while total(at(high)) > share * total_before:
        high *= 4
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if total(at(middle)) <= share * total_before else (middle, high)
    return at(high)


def _worth(option: Option) -> float:
    """Return what a chain costs in energy: minus the logarithm of the share that it keeps."""
    return -math.log(max(1 - option.lost, 1e-9))

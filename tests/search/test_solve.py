"""The solver against all allocations there are, on small tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from laconic.core.choices import Cost, Part, Table
from laconic.core.errors import BadInput
from laconic.search.solve import Allocation, solve


def table(seed: int, parts: int = 5) -> Table:
    """A chain of groups of 2 to 4 sizes: each layer reads one and makes the next, one joins the ends, one is fixed; smaller is faster, not always evenly."""
    draw = np.random.default_rng(seed)
    sizes = [int(draw.integers(2, 5)) for _ in range(parts)]
    counts = [tuple(range(4 * n, 0, -4)) for n in sizes]
    rises = [(0.0, *np.cumsum(draw.exponential(0.1, n - 1)).tolist()) for n in sizes]

    def took(*ends: int) -> dict[str, np.ndarray]:
        grid = [np.array(counts[end]) / counts[end][0] for end in ends]
        even = draw.uniform(0.5, 3) * (grid[0] if len(ends) == 1 else np.outer(*grid))
        return {name: even * draw.uniform(0.8, 1.2, even.shape) for name in ("fp32", "int8")}

    costs = [Cost(("stem",), (0,), took(0)), Cost(("fixed",), (), {"fp32": np.array(0.4), "int8": np.array(0.3)})]
    costs += [Cost((f"layer{i}",), (i, i + 1), took(i, i + 1)) for i in range(parts - 1)]
    costs.append(Cost(("skip",), (parts - 1, 0), took(parts - 1, 0)))
    return Table(tuple(Part(f"g{i}", values, loss) for i, (values, loss) in enumerate(zip(counts, rises, strict=True))), tuple(costs))


def layered(seed: int) -> Table:
    """The same with a rank of the first layer, floats for the second, and a block of the second and third that may go: costs of three and four parts."""
    known = table(seed)
    more = (
        Part("layer0", ("whole", "spatial 8", "spatial 4"), (0.0, 0.05, 0.2), "rank"),
        Part("layer1", (8, 32), (0.0, -0.06), "bits"),
        Part("block", (1, 0), (0.0, 0.3), "block"),
    )
    first = len(known.parts)
    scales: dict[str, list[tuple[int, dict[str, list[float]]]]] = {
        "layer0": [(first, {"fp32": [1, 0.6, 0.3], "int8": [1, 0.7, 0.4]})],
        "layer1": [(first + 1, {"fp32": [1, 1], "int8": [1, 1.8]}), (first + 2, {"fp32": [1, 0], "int8": [1, 0]})],
        "layer2": [(first + 2, {"fp32": [1, 0], "int8": [1, 0]})],
    }
    costs = []
    for cost in known.costs:
        ms, parts = dict(cost.ms), cost.parts
        for part, scale in scales.get(cost.layers[0], ()):
            ms, parts = {name: own[..., None] * np.array(scale[name]) for name, own in ms.items()}, (*parts, part)
        costs.append(Cost(cost.layers, parts, ms))
    return Table((*known.parts, *more), tuple(costs))


def every(known: Table) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(len(part.values)) for part in known.parts))


@pytest.mark.parametrize("make", [table, layered])
@pytest.mark.parametrize("seed", range(6))
def test_no_allocation_that_keeps_to_the_time_loses_less(make: Callable[[int], Table], seed: int) -> None:
    known = make(seed)
    whole = {name: known.ms(known.whole, name) for name in known.precisions}
    for precision, share in itertools.product(known.precisions, (0.9, 0.6, 0.4)):
        (found,) = solve(known, [share], precision)
        best = min(known.loss(chosen) for chosen in every(known) if known.ms(chosen, precision) <= share * whole[precision])
        assert found.loss == pytest.approx(best, rel=1e-3)
        assert found.share <= share * (1 + 1e-6)
        assert (found.ms, found.loss) == pytest.approx((known.ms(found.chosen, precision), known.loss(found.chosen)))


def test_a_ladder_of_times_is_a_frontier() -> None:
    known = table(7)
    found = solve(known, [1.0, 0.8, 0.6, 0.4], "int8")
    assert found[0] == Allocation(known.whole, pytest.approx(known.ms(known.whole, "int8")), pytest.approx(1.0), 0.0)
    assert [one.loss for one in found] == sorted(one.loss for one in found)
    assert [one.ms for one in found] == sorted((one.ms for one in found), reverse=True)


def test_of_equal_losses_the_faster_is_taken() -> None:
    free = Table((Part("a", (8, 4), (0.0, 0.0)),), (Cost(("l",), (0,), {"fp32": np.array([2.0, 1.0])}),))
    assert solve(free, [1.0], "fp32")[0].chosen == (1,)


def test_more_kinds_of_choices_lose_less_in_the_same_time() -> None:
    known = layered(3)
    alone, every_kind = known.only(("channels",)), known.only(("channels", "rank", "bits", "block"))
    assert every_kind.to_json() == known.to_json()
    pairs = [[solve(one, [share], "int8")[0].loss for one in (alone, known)] for share in (0.8, 0.6, 0.4)]
    assert all(both <= channels + 1e-9 for channels, both in pairs)
    assert any(both < channels - 0.01 for channels, both in pairs)


def test_what_cannot_be_reached_is_told_with_what_can() -> None:
    known = table(1)
    least = min(known.ms(chosen, "fp32") for chosen in every(known)) / known.ms(known.whole, "fp32")
    with pytest.raises(BadInput, match=rf"0\.05 of the layers' time cannot be reached: {least:.2f} is the least"):
        solve(known, [0.05], "fp32")
    with pytest.raises(BadInput, match="timed in fp32, int8; not in bf16"):
        solve(known, [0.5], "bf16")
    with pytest.raises(BadInput, match="no parts"):
        solve(Table((), ()), [0.5], "fp32")


def test_a_table_comes_back_from_its_file_and_tells_choices_by_themselves() -> None:
    known = table(2)
    again = Table.from_json(json.loads(json.dumps(known.to_json())))
    assert again.to_json() == known.to_json()
    chosen = tuple(len(part.values) - 1 for part in known.parts)
    assert again.ms(chosen, "int8") == known.ms(chosen, "int8")
    rows = list(again.rows())
    assert [(row.name, row.value, row.loss) for row in rows] == [
        (part.name, value, loss) for part in known.parts for value, loss in zip(part.values, part.loss, strict=True)
    ]
    assert rows[1].ms == {name: known.ms((1, 0, 0, 0, 0), name) for name in ("fp32", "int8")}
    assert known.values((0, 1, 0, 0, 0)) == {"g1": known.parts[1].values[1]}

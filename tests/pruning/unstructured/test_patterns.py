from __future__ import annotations

import itertools

import pytest
import torch

from laconic.core.errors import BadInput
from laconic.pruning.unstructured.patterns import Pattern, best


@pytest.mark.parametrize(("text", "keep", "of"), [("2:4", 2, 4), ("1:4", 1, 4), ("4:8", 4, 8)])
def test_n_of_m_is_the_best_choice_of_each_group(text: str, keep: int, of: int) -> None:
    """Against all choices, by brute force."""
    scores = torch.rand(5, 2 * of)
    kept = Pattern.read(text).best_of_each(scores)
    for row, chosen in zip(scores, kept, strict=True):
        for start in range(0, 2 * of, of):
            most = max(sum(row[start + i] for i in choice) for choice in itertools.combinations(range(of), keep))
            assert row[start : start + of][chosen[start : start + of]].sum() == pytest.approx(float(most))
            assert int(chosen[start : start + of].sum()) == keep


@pytest.mark.parametrize(("text", "rows", "columns"), [("1x4", 1, 4), ("4x1", 4, 1), ("16x1", 16, 1), ("2x2", 2, 2)])
def test_blocks_stay_or_go_whole(text: str, rows: int, columns: int) -> None:
    pattern, scores = Pattern.read(text), torch.rand(16, 8)
    units = pattern.units(scores)
    assert units.shape == (16 // rows, 8 // columns)
    assert units[1 if rows < 16 else 0, 1] == pytest.approx(float(scores[(rows if rows < 16 else 0) :][:rows, columns : 2 * columns].sum()))
    kept = best(units, 5)
    mask = pattern.spread(kept)
    for i, j in itertools.product(range(16), range(8)):
        assert bool(mask[i, j]) is bool(kept[i // rows, j // columns])


def test_the_best_are_as_many_as_asked_of_all_or_of_each_row() -> None:
    scores = torch.rand(6, 10)
    assert set(scores[best(scores, 20)].tolist()) == set(scores.flatten().sort().values[-20:].tolist())
    by_row = best(scores, 18, by_row=True)
    assert bool((by_row.sum(1) == 3).all())
    assert bool((scores[by_row].view(6, 3).min(1).values > scores.masked_fill(by_row, 0).max(1).values).all())


@pytest.mark.parametrize("text", ["", "4:4", "0:4", "5:4", "1x1", "2:4x", "dense"])
def test_what_is_no_pattern_is_told(text: str) -> None:
    with pytest.raises(BadInput, match="is none. Write 'unstructured', 'N:M'"):
        Pattern.read(text)


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("2:4", (8, 6, 3, 3), "its 6 input channels are no multiple of 4"),
        ("2:4", (8, 8, 3, 3), ""),
        ("1x4", (8, 1, 3, 3), "its 1 input channels are no multiple of 4"),
        ("16x1", (10, 8), "its 10 output channels are no multiple of 16"),
        ("unstructured", (1, 1), ""),
    ],
)
def test_which_weights_a_pattern_fits(text: str, shape: tuple[int, ...], said: str) -> None:
    assert Pattern.read(text).misfit(shape) == said

"""Where zeros may stand: anywhere, in whole blocks, or so many of each few neighbors.

Shapes: O output channels, C = K · I columns (input channels next to each other, for each place of a kernel).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.core.errors import BadInput

_GROUPS, _BLOCKS = re.compile(r"(\d+):(\d+)"), re.compile(r"(\d+)x(\d+)")
FREE = "unstructured"


@dataclass(frozen=True)
class Pattern:
    """Units that stay or go as one: blocks of `rows` outputs by `columns` inputs; with `of`, `keep` of each `of` neighbors along the inputs stay.

    Attributes:
        rows: outputs of a block.
        columns: inputs of a block.
        keep: N of N:M; 0: no such rule.
        of: M of N:M.
    """

    rows: int = 1
    columns: int = 1
    keep: int = 0
    of: int = 0

    @classmethod
    def read(cls, text: str) -> Pattern:
        """Return the pattern that a text stands for: ``unstructured``, ``2:4`` (2 of 4 stay), ``1x4`` (blocks of 1 output by 4 inputs).

        Raises:
            BadInput: it stands for none.
        """
        if text == FREE:
            return cls()
        if found := _GROUPS.fullmatch(text):
            keep, of = map(int, found.groups())
            if 0 < keep < of:
                return cls(keep=keep, of=of)
        if found := _BLOCKS.fullmatch(text):
            rows, columns = map(int, found.groups())
            if rows * columns > 1:
                return cls(rows, columns)
        raise BadInput(
            f"pattern: '{text}' is none. Write '{FREE}', 'N:M' with 0 < N < M such as '2:4', or a block such as '1x4' or '16x1'."
        )

    @property
    def grouped(self) -> bool:
        """Whether it is N:M."""
        return self.of > 0

    @property
    def sparsity(self) -> float:
        """The share of zeros that N:M makes."""
        return 1 - self.keep / self.of

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why a weight (O, I, …) cannot have this pattern; empty where it can."""
        for size, unit, what in ((shape[1], max(self.of, self.columns), "input"), (shape[0], self.rows, "output")):
            if size % unit:
                return f"its {size} {what} channels are no multiple of {unit}"
        return ""

    def units(self, scores: Tensor) -> Tensor:
        """Return the score of each unit, (O / rows, C / columns), of the scores of single weights (O, C): their sum over the block."""
        if self.rows * self.columns == 1:
            return scores
        return scores.unflatten(1, (-1, self.columns)).sum(2).unflatten(0, (-1, self.rows)).sum(1)

    def spread(self, kept: Tensor) -> Tensor:
        """Return which weights (O, C) stay, of which units do."""
        if self.rows * self.columns == 1:
            return kept
        return kept.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)

    def best_of_each(self, scores: Tensor, keep: int | None = None) -> Tensor:
        """Return which weights (O, C) are the `keep` (by default N) with the highest scores of each M neighbors."""
        groups = scores.unflatten(1, (-1, self.of))
        kept = torch.zeros_like(groups, dtype=torch.bool)
        return kept.scatter_(2, groups.topk(self.keep if keep is None else keep, 2).indices, True).flatten(1)


def best(scores: Tensor, count: int, by_row: bool = False) -> Tensor:
    """Return a mask of the `count` highest scores, of all or (by_row) as many of each row, one at least, so that `count` are nearest reached."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    if by_row:
        return kept.scatter_(1, scores.topk(max(1, round(count / len(scores))), 1).indices, True)
    kept.view(-1)[scores.flatten().topk(count).indices] = True
    return kept

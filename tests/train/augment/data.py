"""Batches of each kind, and the rows of the tables with readable ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from laconic.core.plan import Scaled
from laconic.train.augment import AUGMENTATIONS, Augmenter, Mix

ROWS = [pytest.param(kind, name, id=f"{kind}-{name}") for kind, table in AUGMENTATIONS.items() for name in table]
RGB = ("saturation", "hue")
CLS, SEP = 2, 3


def twice(ids: Tensor) -> Tensor:
    """Two synonyms of each word that no text of these tests contains."""
    return torch.stack([ids + 1000, ids + 2000], 1)


def augment(inputs: Any, name: str, strength: float = 1.0, seed: int = 0) -> tuple[Any, Mix | None]:
    torch.manual_seed(seed)
    return Augmenter([Scaled(name, strength)], synonyms=twice, special=(CLS, SEP))(inputs)


def texts(lengths: list[int], length: int, dtype: torch.dtype = torch.int64) -> dict[str, Tensor]:
    """[CLS], different words, [SEP], padding; the second half of each text is of segment 1."""
    ids = torch.zeros(len(lengths), length, dtype=dtype)
    for row, n in enumerate(lengths):
        ids[row, 0], ids[row, 1 : n - 1], ids[row, n - 1] = CLS, 10 + torch.arange(n - 2), SEP
    mask = (ids > 0).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask * (torch.arange(length) >= length // 2)}


def batch(kind: str, channels: int = 3, size: int = 12, n: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    """Fixed shapes, random values."""
    if kind == "text":
        return texts([size] * n, size + 4)["input_ids"]
    shape = (n, channels, size, size + 1) if kind == "image" else (n, channels, 3 * size)
    return torch.randn(shape).to(dtype)


@st.composite
def batches(draw: st.DrawFn, kind: str, name: str) -> Any:
    """Any batch of a kind that the row takes."""
    n = draw(st.integers(1, 4))
    if kind == "text":
        length = draw(st.integers(2, 14))
        lengths = draw(st.lists(st.integers(2, length), min_size=n, max_size=n))
        return texts(lengths, length, draw(st.sampled_from([torch.int64, torch.int32])))
    channels = 3 if name in RGB else draw(st.sampled_from([1, 3, 4]))
    sizes = draw(st.tuples(*[st.integers(1, 12)] * (2 if kind == "image" else 1)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    torch.manual_seed(draw(st.integers(0, 99)))
    return torch.randn(n, channels, *sizes).to(dtype)

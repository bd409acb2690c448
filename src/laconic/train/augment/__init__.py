"""Augmentation: the tables, and how a batch is augmented.

Whatever the augmentation, shape, dtype and device stay, the batch given is not changed, and a strength of 0 does nothing. Random numbers come from
torch's global generator alone.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.plan import Scaled
from laconic.train.augment.image import IMAGE
from laconic.train.augment.row import Augmentation, Mix
from laconic.train.augment.series import SERIES
from laconic.train.augment.text import TEXT, EmbeddingNeighbors, Synonyms, WordNet, read

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Augmenter",
    "EmbeddingNeighbors",
    "Mix",
    "Synonyms",
    "WordNet",
    "augmentations",
    "before_after",
    "kind_of",
]

AUGMENTATIONS: dict[str, dict[str, Augmentation]] = {"image": IMAGE, "text": TEXT, "series": SERIES}
GROUP = "laconic.augmentations"  # of entry points: each names an `Augmentation` with its `kinds`
_BESIDE = ("attention_mask", "token_type_ids", "position_ids")  # integers (B, L) that are no text
_STRONGEST = 10  # beyond, nothing is left of the data, and some powers overflow


def augmentations() -> dict[str, dict[str, Augmentation]]:
    """Return the augmentations of each kind of data by name: `AUGMENTATIONS` and those of other packages.

    Raises:
        BadInput: an entry point takes a name that is there, or is no augmentation of a known kind.
    """
    return {kind: {**table, **_from_outside().get(kind, {})} for kind, table in AUGMENTATIONS.items()}


@functools.cache
def _from_outside() -> dict[str, dict[str, Augmentation]]:
    own = {name: row for table in AUGMENTATIONS.values() for name, row in table.items()}
    rows: dict[str, dict[str, Augmentation]] = {}
    for name, row in extended(own, GROUP).items():
        if name in own:
            continue
        if not isinstance(row, Augmentation) or not row.kinds or not set(row.kinds) <= set(AUGMENTATIONS):
            raise BadInput(f"'{name}' in the group {GROUP} must be an Augmentation with kinds among {', '.join(AUGMENTATIONS)}")
        for kind in row.kinds:
            rows.setdefault(kind, {})[name] = row
    return rows


def kind_of(x: Any) -> str | None:
    """Return the kind of data: floating point (B, C, H, W) is image, (B, C, L) series; whole numbers (B, L) are text; anything else None."""
    if not isinstance(x, Tensor):
        return None
    if x.is_floating_point():
        return {4: "image", 3: "series"}.get(x.ndim)
    return "text" if x.ndim == 2 and x.dtype != torch.bool else None


class Augmenter:
    """Choices applied in order to a batch of inputs; for training only.

    Args:
        choices: names of the table for the kind of data, and strengths.
        synonyms: for the augmentations of text that need them.
        pad: id of padding in texts.
        special: ids of texts that are never touched.

    Raises:
        BadInput: a name in no table, a strength out of range, two mixtures, or no synonyms where they are needed; all told at once.
    """

    def __init__(self, choices: Sequence[Scaled], *, synonyms: Synonyms | None = None, pad: int = 0, special: Collection[int] = ()) -> None:
        self.choices, self.synonyms, self.pad, self.special = tuple(choices), synonyms, pad, tuple(special)
        if mistakes := list(_mistakes(self.choices, synonyms)):
            raise BadInput("the augmentations make no sense:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))

    @torch.no_grad()
    def __call__(self, inputs: Any) -> tuple[Any, Mix | None]:
        """Augment one batch.

        Args:
            inputs: a tensor, a mapping, or a tuple; of several tensors, the first that is image, text or series is augmented. Masks and segments (B, L) of a
                text follow its words.

        Returns:
            The inputs, altered, and how targets are to be mixed, if they are.

        Raises:
            BadInput: nothing to augment, a name that is not of this kind, or a mixture where several tensors would have to be mixed.
        """
        if not self.choices:
            return inputs, None
        parts = _open(inputs)
        key = _main(parts)
        kind = kind_of(parts[key])
        assert kind is not None
        rows = [(_row(kind, choice.name), choice) for choice in self.choices]
        if kind == "text":
            return _close(inputs, self._text(parts, key, rows)), None
        if len(parts) > 1 and any(row.mixes for row, _ in rows):
            raise BadInput(f"mixup and cutmix mix one tensor with its target; these inputs have {len(parts)}: {', '.join(map(str, parts))}")
        parts[key], mix = _pixels(parts[key], rows)
        return _close(inputs, parts), mix

    def _text(self, parts: dict[Any, Any], key: Any, rows: list[tuple[Augmentation, Scaled]]) -> dict[Any, Any]:
        ids = parts[key]
        text = read(ids, parts.get("attention_mask"), self.pad, self.special, self.synonyms)
        for row, choice in rows:
            text = row.function(text, choice.strength) if choice.strength else text
        follow = [
            name for name, value in parts.items() if name != "position_ids" and isinstance(value, Tensor) and value.shape == ids.shape
        ]
        return {**parts, **{name: text.beside(parts[name]) for name in follow}, key: text.ids}


def before_after(inputs: Any, choice: Scaled, n: int = 4, *, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    """Return the first `n` examples of a batch, and the same augmented; for pictures of what an augmentation does.

    Args:
        inputs: as of `Augmenter`.
        choice: what to do.
        n: how many examples.
        seed: of the random numbers; the random state outside is given back.
        options: of `Augmenter`.
    """
    before = _close(inputs, {key: value[:n] if isinstance(value, Tensor) else value for key, value in _open(inputs).items()})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return before, Augmenter([choice], **options)(before)[0]


def _mistakes(choices: Sequence[Scaled], synonyms: Synonyms | None) -> Iterator[str]:
    tables = augmentations().values()
    names = {name for table in tables for name in table}
    for choice in choices:
        rows = [table[choice.name] for table in tables if choice.name in table]
        if not rows:
            yield f"'{choice.name}' is no augmentation." + nearest(choice.name, names)
        elif all(row.synonyms for row in rows) and synonyms is None:
            yield f"'{choice.name}' needs synonyms: give EmbeddingNeighbors(embedding.weight), WordNet(folder, words) or a function of your own"
        if not 0 <= choice.strength <= _STRONGEST:
            yield f"'{choice.name}': the strength must be from 0 to {_STRONGEST}; it is {choice.strength}"
    mixing = [choice.name for choice in choices if any(choice.name in table and table[choice.name].mixes for table in tables)]
    if len(mixing) > 1:
        yield f"one mixture at most: targets are mixed once; these are {', '.join(mixing)}"


def _open(inputs: Any) -> dict[Any, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return dict(enumerate(inputs)) if isinstance(inputs, (tuple, list)) else {0: inputs}


def _close(inputs: Any, parts: dict[Any, Any]) -> Any:
    if isinstance(inputs, Mapping):
        return parts
    if isinstance(inputs, (tuple, list)):
        return list(parts.values()) if isinstance(inputs, list) else tuple(parts.values())
    return parts[0]


def _main(parts: Mapping[Any, Any]) -> Any:
    for name, value in parts.items():
        if name not in _BESIDE and kind_of(value) is not None:
            return name
    shapes = ", ".join(
        f"{name}: {value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name}: {type(value).__name__}"
        for name, value in parts.items()
    )
    raise BadInput(
        "augmentation needs floating-point pictures (B, C, H, W) or series (B, C, L), or token ids (B, L); the inputs are "
        + shapes.replace("torch.", "")
    )


def _row(kind: str, name: str) -> Augmentation:
    table = augmentations()[kind]
    if name not in table:
        raise BadInput(f"'{name}' is no augmentation of data of the kind '{kind}'." + nearest(name, table))
    return table[name]


def _pixels(x: Tensor, rows: Sequence[tuple[Augmentation, Scaled]]) -> tuple[Tensor, Mix | None]:
    """Pass pictures or series through each row; half precision is computed in float32."""
    mix, dtype = None, x.dtype
    x = x if dtype == torch.float64 else x.float()
    for row, choice in rows:
        if choice.strength:
            out = row.function(x, choice.strength)
            x, mix = out if row.mixes else (out, mix)
    return x.to(dtype), mix

"""Augmentations of text as token ids, after EDA (Wei & Zou 2019, section 2), and where synonyms come from.

EDA changes n = α · l words of l. Here n is rounded up or down at random, so that short texts change as much as long ones on average; α = 0.1 · strength.

Shapes: B batch, L length, V vocabulary, D embedding, K candidates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from laconic.core.errors import BadInput, CorruptFile
from laconic.train.augment.row import Augmentation

_SHARE = 0.1


class Synonyms(Protocol):
    """A source of synonyms."""

    def __call__(self, ids: Tensor) -> Tensor:
        """Return candidates (n, K) in place of the tokens (n,), of the same dtype; a token with fewer fills its row up with itself."""


@dataclass(frozen=True)
class Text:
    """A batch of texts, padded on the right.

    Attributes:
        ids: (B, L).
        real: (B, L), where there is no padding.
        source: (B, L), the position of the given text whose mask and segment a token takes on.
        pad: id of padding.
        special: ids that are never touched nor put in.
        synonyms: where there is a source.
    """

    ids: Tensor
    real: Tensor
    source: Tensor
    pad: int = 0
    special: Collection[int] = ()
    synonyms: Synonyms | None = None

    @property
    def words(self) -> Tensor:
        """(B, L), where there is a token that may be touched."""
        return self.real & ~self.reserved(self.ids)

    def reserved(self, ids: Tensor) -> Tensor:
        """Return which ids are padding or special."""
        return torch.isin(ids, torch.tensor([self.pad, *self.special], dtype=ids.dtype, device=ids.device))

    def beside(self, tensor: Tensor) -> Tensor:
        """Move what lies beside the ids (mask, segments), (B, L), along with them; 0 beside padding."""
        return torch.where(self.real, tensor.gather(1, self.source), torch.zeros_like(tensor))


def read(ids: Tensor, mask: Tensor | None = None, pad: int = 0, special: Collection[int] = (), synonyms: Synonyms | None = None) -> Text:
    """Tell the words from the padding: by the attention mask, or else what follows the last id that is not `pad`.

    Raises:
        BadInput: the padding is not all on the right.
    """
    real = (ids != pad).flip(1).cummax(1).values.flip(1) if mask is None else mask.bool()
    if bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise BadInput(
            "augmentations of text need texts that are padded on the right; an attention_mask of this batch has a 1 after a 0. Pad on the right."
        )
    return Text(ids, real, torch.arange(ids.shape[1], device=ids.device).expand_as(ids), pad, special, synonyms)


def synonym(text: Text, strength: float) -> Text:
    """Put a synonym in place of some words."""
    candidates, can = _candidates(text)
    chosen = _some(can, _amount(text.words, strength).minimum(can.sum(1)))
    ids = text.ids.clone()
    ids[chosen] = _draw(candidates, chosen).to(ids.dtype)
    return replace(text, ids=ids)


def insertion(text: Text, strength: float) -> Text:
    """Put synonyms of some words after words anywhere in the text, as far as there is room."""
    candidates, can = _candidates(text)
    length = text.ids.shape[1]
    amount = _amount(text.words, strength).minimum(length - text.real.sum(1)) * can.any(1)
    width = int(amount.max())
    alive = torch.arange(width, device=amount.device) < amount[:, None]
    anchor = _pick(text.words, width)
    new = _draw(candidates, _pick(can, width), alive).to(text.ids.dtype)
    # Words in their order, each newcomer just after its anchor, then padding; newcomers that are not wanted come last of all.
    place = torch.arange(length, device=amount.device)
    keys = torch.cat([torch.where(text.real, place, length), torch.where(alive, anchor, 2 * length)], 1)
    order = keys.argsort(dim=1, stable=True)[:, :length]
    ids, source = torch.cat([text.ids, new], 1), torch.cat([text.source, text.source.gather(1, anchor)], 1)
    return _packed(text, ids.gather(1, order), source.gather(1, order), text.real.sum(1) + amount)


def swap(text: Text, strength: float) -> Text:
    """Exchange two words, several times. Masks and segments stay where they are."""
    amount = _amount(text.words, strength) * (text.words.sum(1) > 1)
    ids = text.ids
    for turn in range(int(amount.max())):
        one = _pick(text.words, 1)
        two = _pick(text.words.scatter(1, one, False), 1)
        both, crossed = torch.cat([one, two], 1), torch.cat([two, one], 1)
        ids = torch.where((turn < amount)[:, None], ids.scatter(1, both, ids.gather(1, crossed)), ids)
    return replace(text, ids=ids)


def deletion(text: Text, strength: float) -> Text:
    """Drop each word with the same probability; one word is left where there was one."""
    words = text.words
    kept = words & (torch.rand(words.shape).to(words.device) >= _SHARE * strength)
    lost = words.any(1) & ~kept.any(1)
    stay = text.real & (kept | ~words) | lost[:, None] & torch.zeros_like(words).scatter(1, _pick(words, 1), True)
    order = (~stay).int().argsort(dim=1, stable=True)
    return _packed(text, text.ids.gather(1, order), text.source.gather(1, order), stay.sum(1))


def _packed(text: Text, ids: Tensor, source: Tensor, lengths: Tensor) -> Text:
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return replace(text, ids=ids.masked_fill(~real, text.pad), real=real, source=source)


def _amount(words: Tensor, strength: float) -> Tensor:
    """Draw how many words to change, (B,)."""
    count = words.sum(1)
    expected = _SHARE * strength * count + torch.rand(len(words)).to(count.device)
    return expected.floor().long().minimum(count)


def _some(mask: Tensor, amount: Tensor) -> Tensor:
    """Draw `amount` (B,) places of the mask in each row, as a mask (B, L)."""
    keys = torch.rand(mask.shape).to(mask.device).masked_fill(~mask, 2.0)
    return keys.argsort(1).argsort(1) < amount[:, None]


def _pick(mask: Tensor, n: int) -> Tensor:
    """Draw positions (B, n) with replacement from the mask; anything in a row whose mask is empty."""
    count = mask.cumsum(1)
    rank = (torch.rand(len(mask), n).to(mask.device) * count[:, -1:]).long() + 1
    return torch.searchsorted(count, rank).clamp(max=mask.shape[1] - 1)


@dataclass(frozen=True)
class _Candidates:
    """Synonyms of the batch's tokens: table (n, K), allowed (n, K), row (B, L) of each token."""

    table: Tensor
    allowed: Tensor
    row: Tensor


def _candidates(text: Text) -> tuple[_Candidates, Tensor]:
    """Return the candidates, and which words have one other than themselves, (B, L)."""
    assert text.synonyms is not None
    present, row = text.ids.unique(return_inverse=True)
    table = text.synonyms(present)
    allowed = (table != present[:, None]) & ~text.reserved(table)
    return _Candidates(table, allowed, row), text.words & allowed.any(1)[row]


def _draw(candidates: _Candidates, place: Tensor, alive: Tensor | None = None) -> Tensor:
    """Draw one candidate for each place: a mask (B, L), or positions (B, n), where `alive` says which count."""
    rows = candidates.row[place] if alive is None else candidates.row.gather(1, place)
    weights = candidates.allowed[rows].cpu().float()
    if alive is not None:
        weights = weights.masked_fill(~alive.cpu()[..., None], 1.0)
    flat = weights.flatten(0, -2)
    drawn = torch.multinomial(flat, 1) if len(flat) else torch.zeros(0, 1, dtype=torch.int64)
    return candidates.table[rows].gather(-1, drawn.view(*weights.shape[:-1], 1).to(rows.device)).squeeze(-1)


class EmbeddingNeighbors:
    """Tokens whose embeddings are nearest by cosine; each is looked up when first asked for.

    Args:
        weight: (V, D); copied, so that training does not move the neighbors.
        k: how many.
    """

    def __init__(self, weight: Tensor, k: int = 5) -> None:
        if not 1 <= k < len(weight):
            raise BadInput(f"the number of neighbors must be from 1 to {len(weight) - 1}, the other tokens of the vocabulary; it is {k}")
        self._unit = torch.nn.functional.normalize(weight.detach().to("cpu", torch.float32), dim=1)
        self._near = torch.full((len(weight), k), -1)

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the neighbors (n, k) of tokens (n,), nearest first."""
        wanted = ids.cpu().long()
        new = wanted[self._near[wanted, 0] < 0].unique()
        for part in new.split(256):
            likeness = (self._unit[part] @ self._unit.T).scatter_(1, part[:, None], -torch.inf)
            self._near[part] = likeness.topk(self._near.shape[1]).indices
        return self._near[wanted].to(ids)


class WordNet:
    """Words that share a synset with a word, in any of its senses, as far as the vocabulary has them.

    Words are looked up as they are: there is no stemming, and words of several parts (`hot_dog`) are no candidates.

    Args:
        folder: `dict` of a WordNet of Princeton's format, with `index.noun`, `data.noun` and so on.
        words: the word of each token id.

    Raises:
        BadInput: the folder has no such files.
        CorruptFile: one is not of that format.
    """

    def __init__(self, folder: Path | str, words: Sequence[str]) -> None:
        ids = {word.lower(): index for index, word in reversed(list(enumerate(words)))}
        synonyms: dict[int, dict[int, None]] = {index: {} for index in ids.values()}
        for part in _parts(Path(folder)):
            for word, other in _synonyms(Path(folder), part, ids):
                if other in ids and other != word:
                    synonyms[ids[word]][ids[other]] = None
        wide = max(1, *(len(row) for row in synonyms.values())) if synonyms else 1
        self._table = torch.arange(len(words))[:, None].repeat(1, wide)
        for index, row in synonyms.items():
            self._table[index, : len(row)] = torch.tensor(list(row), dtype=torch.int64)

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the synonyms (n, K) of tokens (n,), of the commonest sense first."""
        return self._table[ids.cpu().long()].to(ids)


def _parts(folder: Path) -> list[str]:
    parts = [
        part for part in ("noun", "verb", "adj", "adv") if (folder / f"index.{part}").is_file() and (folder / f"data.{part}").is_file()
    ]
    if not parts:
        raise BadInput(
            f"{folder} holds no WordNet files (index.noun and data.noun, or those of verb, adj, adv). Name the folder 'dict' of a WordNet."
        )
    return parts


def _synonyms(folder: Path, part: str, words: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of a word and another of its synsets, by sense (the format: WordNet's manual page wndb(5))."""
    with (folder / f"index.{part}").open(encoding="utf-8") as index, (folder / f"data.{part}").open("rb") as data:
        try:
            for line in index:
                if not line.startswith(" ") and (fields := line.split()) and fields[0] in words:
                    for offset in fields[-int(fields[2]) :]:
                        yield from ((fields[0], other) for other in _synset(data.seek(int(offset)), data.readline()))
        except (ValueError, IndexError) as error:
            raise CorruptFile(f"{folder}: index.{part} and data.{part} are not WordNet files that belong together ({error})") from error


def _synset(offset: int, line: bytes) -> list[str]:
    """Return the words of one line of a data file, without the mark of an adjective's place, as in `galore(ip)`."""
    fields = line.decode().split()
    if fields[0] != f"{offset:08d}":
        raise ValueError(f"no synset begins at byte {offset}")
    return [word.partition("(")[0].lower() for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]


_EDA = "Wei & Zou 2019, section 2"

TEXT: dict[str, Augmentation] = {
    "synonym": Augmentation(synonym, "10 % · strength of the words", _EDA, synonyms=True),
    "insertion": Augmentation(insertion, "new words, 10 % · strength of those there", _EDA, synonyms=True),
    "swap": Augmentation(swap, "exchanges, 10 % · strength of the number of words", _EDA),
    "deletion": Augmentation(deletion, "10 % · strength of the words", _EDA),
}

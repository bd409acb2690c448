"""Adaptive context modelling: each code of a tensor costs as many bits as the codes before it say, by row, column, channel and place in the kernel.

A code is written as binary decisions (CABAC's way: Marpe, Schwarz and Wiegand, IEEE TCSVT 13, 2003; for weights DeepCABAC: Wiedemann et al., IEEE JSTSP 14,
2020): its class, which is the number of binary digits of its distance from zero, in unary; its sign; the digits below the first. Each decision is predicted in
several contexts, whose predictions are mixed in the logistic domain with weights that learn (Mahoney, "Adaptive weighing of context models", 2005). The bits go
through constriction's range coder.

Where CABAC learns from each decision, this learns from each block of them, so that NumPy predicts a block at once: contexts see what stands before the block.
All arithmetic is on whole numbers and, for the weights, on single operations of floats, which round alike everywhere: any machine decodes what another wrote.

Shapes: N codes, n codes of a block, J contexts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from laconic.core.errors import need
from laconic.storage.bits import Reader
from laconic.storage.layout import Layout

# Stretched probabilities are 1/256 nats; probabilities 1/65536.
_NAT, _ONE = 256, 1 << 16
_FURTHEST = 12 * _NAT
_WEIGHT = 1 << 16  # a weight of 1
_STEP, _ENOUGH = _WEIGHT // 8, 32  # the most that a weight moves, and the decisions after which it does
_FIRST_CURVATURE, _FADING = 2.0**39, 0.998  # how sure the first weights are; what is left of that, and of what was learned, after a step
_MOST_CODES, _MOST_SYMBOLS = 1 << 19, 96  # of a stream that is worth its time
MOST_NUMBERS = 1 << 22  # of a model: for more of them, a percent or two is not worth the half minute that restoring takes
_REMEMBERED = 24  # rows that a running size remembers
_LIMIT = 1 << 12  # observations that a context remembers
_LEVELS = 12  # of a magnitude in a context
_TREE = 8  # nodes of the first three digits
_PRIOR = 8  # observations that the first table counts for in the others
_LEAST_BLOCK, _MOST_BLOCK, _BLOCKS = 96, 1 << 14, 1 << 10
# Contexts of each table: of all decisions, and of the few that signs and digits have.
_SIZES = (1, (_LEVELS // 2) ** 2 * 2, _LEVELS, _LEVELS, _LEVELS, 6 * 6, 16 * 3)
_FEW = _SIZES[:2]


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return the stretched value of each probability of 12 bits, and the probability of each stretched value; rounded far from where machines differ."""
    shares = (np.arange(4096) + 0.5) / 4096
    stretched = np.rint(_NAT * np.log(shares / (1 - shares))).astype(np.int64)
    squashed = np.rint(_ONE / (1 + np.exp(-np.arange(-_FURTHEST, _FURTHEST + 1) / _NAT))).astype(np.int64)
    return stretched, np.clip(squashed, 24, _ONE - 24)


Take = Callable[["np.ndarray | None", np.ndarray, np.ndarray], np.ndarray]


class Decisions:
    """Decisions of one sort: how often each came in each context of J tables, and the weights that mix what the tables say.

    Args:
        sizes: (J,) contexts of each table; what the first says, others assume of a context that they have not seen.
        nodes: how many decisions stand side by side in each context.
    """

    def __init__(self, sizes: Sequence[int], nodes: int = 1) -> None:
        lengths = nodes * np.array(sizes)
        self.starts = (np.cumsum(lengths) - lengths)[:, None]
        self._parents = np.tile(np.arange(nodes), sum(sizes)) if sizes[0] == 1 else np.arange(int(lengths.sum()))
        self._counts = np.zeros((2, int(lengths.sum())), np.int64)
        self._stretched = np.zeros(int(lengths.sum()), np.int64)
        self._weights = np.full(len(sizes), _WEIGHT * 9 // (8 * len(sizes)), np.int64)
        self._curvature = np.zeros((len(sizes), len(sizes)))
        self._slope, self._waiting = np.zeros(len(sizes)), 0
        self._seen: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def chance(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of 1 in 1/65536, (n,), and what each table says of it, (J, n)."""
        said = self._stretched.take(contexts)
        place = np.clip((self._weights @ said >> 16) + _FURTHEST, 0, 2 * _FURTHEST)
        return _tables()[1].take(place), said

    def see(self, contexts: np.ndarray, said: np.ndarray, chance: np.ndarray, bits: np.ndarray) -> None:
        """Keep what came, to learn from it at the end of the block."""
        self._seen.append((contexts, said, chance, bits))

    def learn(self) -> None:
        """Move the weights along the gradient, scaled by the curvature so far, and count."""
        if not self._seen:
            return
        for contexts, said, chance, bits in self._seen:
            self._slope += said @ (bits * _ONE - chance)
            self._curvature += (said * (chance * (_ONE - chance) >> 16)) @ said.T
            self._waiting += len(bits)
            both = np.bincount((contexts * 2 + bits).reshape(-1), minlength=self._counts.size)
            self._counts += both.reshape(-1, 2).T
        self._seen.clear()
        if self._waiting >= _ENOUGH:
            self._weigh()
        many = self._counts.sum(0) > _LIMIT
        self._counts[:, many] >>= 1
        zeros, ones = self._counts
        total = zeros + ones
        assumed = (ones * 10 + 4)[self._parents] * 4096 // (total * 10 + 8)[self._parents]
        self._stretched = _tables()[0].take((ones * 4096 + _PRIOR * assumed) // (total + _PRIOR), mode="clip")

    def _weigh(self) -> None:
        """Take a step of Newton's method on the logarithm of the likelihood, whose curvature fades."""
        steps = _solved((self._curvature + np.eye(len(self._slope)) * _FIRST_CURVATURE).tolist(), self._slope.tolist())
        self._weights += np.array([max(-_STEP, min(_STEP, round(step * 2.0**24))) for step in steps], np.int64)
        self._curvature *= _FADING
        self._slope[:], self._waiting = 0.0, 0


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a symmetric positive definite system by elimination, in plain floats, which round alike on every machine."""
    size = len(right)
    for pivot in range(size):
        row, value = matrix[pivot], right[pivot]
        for other in range(pivot + 1, size):
            part = matrix[other][pivot] / row[pivot]
            if part:
                target = matrix[other]
                for place in range(pivot, size):
                    target[place] -= part * row[place]
                right[other] -= part * value
    for pivot in range(size - 1, -1, -1):
        known = sum(matrix[pivot][place] * right[place] for place in range(pivot + 1, size))
        right[pivot] = (right[pivot] - known) / matrix[pivot][pivot]
    return right


@dataclass(frozen=True)
class Range:
    """The codes of a stream, as distances from its zero: from `low` to `high`."""

    low: int
    high: int

    @classmethod
    def of(cls, layout: Layout) -> Range:
        """Return that of a stream."""
        return cls(-layout.zero, layout.alphabet - 1 - layout.zero)

    @property
    def classes(self) -> int:
        """The largest class."""
        return max(abs(self.low), abs(self.high)).bit_length()


class Model:
    """What is known of a stream of codes from those that came before.

    Args:
        layout: of the stream.
        count: N.
    """

    def __init__(self, layout: Layout, count: int) -> None:
        self._range, self._columns, self._inner = Range.of(layout), max(1, layout.columns), max(1, layout.inner)
        self._count = count
        groups = -(-self._columns // self._inner)
        self._column = np.zeros(self._columns, np.int64)  # running size of the codes, 1/256
        self._group = np.zeros(groups, np.int64)
        self._column_seen, self._group_seen = np.zeros_like(self._column), np.zeros_like(self._group)
        self._above = np.zeros(self._columns, np.int64)
        self._mean, self._row, self._row_of, self._row_seen = 0, 0, -1, 0
        classes = self._range.classes
        self._class = [Decisions(_SIZES) for _ in range(classes)]
        self._sign = Decisions(_FEW)
        self._digits = [Decisions(_FEW, _TREE + classes) for _ in range(classes + 1)]

    def blocks(self) -> Iterator[slice]:
        """Yield the blocks: whole rows where these are short or the tensor is large, else parts of rows, the first ones short, for they tell of the row."""
        aim = min(_MOST_BLOCK, max(_LEAST_BLOCK, self._count // _BLOCKS))
        whole = max(1, aim // self._columns) * self._columns
        first = 0
        while first < self._count:
            within = first % self._columns
            step = whole if self._columns < 2 * aim else min(max(aim // 4, within), 2 * aim, self._columns - within)
            last = min(first + step, self._count)
            yield slice(first, last)
            first = last

    def code(self, block: slice, codes: np.ndarray | None, take: Take) -> np.ndarray:
        """Write or read a block's codes, and learn from them.

        Args:
            block: as of `blocks`.
            codes: (n,) distances from zero; None to read them.
            take: writes decisions, given with their probabilities of 1 in 1/65536 and their places in the block; given None in place of them, reads them.

        Returns:
            The codes, (n,).
        """
        contexts = self._contexts(block)
        count = block.stop - block.start
        sizes = None if codes is None else np.abs(codes)
        kinds = None if sizes is None else _classes(sizes)
        found = np.zeros(count, np.int64)
        active = np.arange(count)
        reached = np.zeros(count, np.int64)
        for kind, decisions in enumerate(self._class):
            if not len(active):
                break
            on = self._decide(decisions, contexts, active, None if kinds is None else kinds[active] > kind, take)
            active = active[on]
            reached[active] += 1
        found[reached > 0] = 1
        for kind in range(2, self._range.classes + 1):
            self._read_digits(kind, np.flatnonzero(reached == kind), contexts, sizes, found, take)
        if self._range.low < 0 < self._range.high:
            active = np.flatnonzero(reached)
            negative = self._decide(self._sign, contexts, active, None if codes is None else codes[active] < 0, take)
            found[active[negative]] *= -1
        elif self._range.low < 0:
            found *= -1
        for decisions in (*self._class, self._sign, *self._digits):
            decisions.learn()
        self._remember(block, found)
        return found

    def _read_digits(
        self, kind: int, active: np.ndarray, contexts: np.ndarray, sizes: np.ndarray | None, found: np.ndarray, take: Take
    ) -> None:
        """Write or read the digits below the first of the codes of one class, into `found`."""
        if not len(active):
            return
        node, nodes = np.ones(len(active), np.int64), _TREE + self._range.classes
        own = contexts[: len(_FEW), active] * nodes + self._digits[kind].starts
        for place in range(kind - 2, -1, -1):
            where = node if kind - 2 - place < 3 else _TREE + place
            bits = None if sizes is None else (sizes[active] >> place) & 1 == 1
            node = node * 2 + self._taken(self._digits[kind], own + where, active, bits, take)
        found[active] = node

    def _decide(self, decisions: Decisions, contexts: np.ndarray, active: np.ndarray, bits: np.ndarray | None, take: Take) -> np.ndarray:
        if not len(active):
            return np.zeros(0, bool)
        return self._taken(decisions, contexts[: len(decisions.starts), active] + decisions.starts, active, bits, take)

    @staticmethod
    def _taken(decisions: Decisions, contexts: np.ndarray, active: np.ndarray, bits: np.ndarray | None, take: Take) -> np.ndarray:
        chance, said = decisions.chance(contexts)
        bits = take(bits, chance, active)
        decisions.see(contexts, said, chance, bits.astype(np.int64))
        return bits

    def _contexts(self, block: slice) -> np.ndarray:
        """Return the contexts of each code of a block, (J, n)."""
        places = np.arange(block.start, block.stop)
        columns = places % self._columns
        column, group = _level(self._column[columns]), _level(self._group[columns // self._inner])
        row = np.full(len(places), int(_level(np.array([self._row_level(block.start)]))[0]))
        above = self._above[columns]
        before = self._above[np.maximum(columns - 1, 0)]
        kernel = np.minimum(columns % self._inner, 15) * 3 + np.minimum(above, 2)
        joint = (column // 2 * (_LEVELS // 2) + row // 2) * 2 + (above > 0)
        near = np.minimum(above, 5) * 6 + np.minimum(before, 5)
        return np.stack([np.zeros_like(places), joint, column, group, row, near, kernel])

    def _row_level(self, place: int) -> int:
        """Return the running size in the row so far; that of all codes where it begins."""
        return self._row if place // self._columns == self._row_of and self._row_seen else self._mean

    def _remember(self, block: slice, codes: np.ndarray) -> None:
        sizes = np.abs(codes)
        columns = np.arange(block.start, block.stop) % self._columns
        self._mean += ((int(sizes.sum()) * 256 // len(sizes)) - self._mean) >> (2 if block.start < 4096 else 5)
        _average(self._column, self._column_seen, columns, sizes)
        _average(self._group, self._group_seen, columns // self._inner, sizes)
        self._above[columns] = sizes
        row = (block.stop - 1) // self._columns
        if row != self._row_of:
            self._row_of, self._row_seen, self._row = row, 0, 0
        mine = sizes[max(0, row * self._columns - block.start) :]
        self._row = (self._row * self._row_seen + int(mine.sum()) * 256) // (self._row_seen + len(mine))
        self._row_seen += len(mine)


def _classes(sizes: np.ndarray) -> np.ndarray:
    """Return the number of binary digits of each."""
    return np.searchsorted(1 << np.arange(13), sizes, side="right")


def _level(sizes: np.ndarray) -> np.ndarray:
    """Return the level of sizes in 1/256: steps of a logarithm, 0 to 11."""
    return np.searchsorted(_STEPS, sizes, side="right")


_STEPS = np.array([1, 3, 6, 12, 24, 48, 96, 192, 400, 900, 2500])


def _average(running: np.ndarray, seen: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> None:
    """Move running sizes, in 1/256, toward what came for each place: their mean at first, then a fading one."""
    count = np.bincount(places, minlength=len(running))
    total = np.bincount(places, sizes, minlength=len(running)).astype(np.int64)
    np.minimum(seen + count, _REMEMBERED, out=seen)
    running += (total * 256 - count * running) // np.maximum(np.maximum(seen, count), 1)


def fits(count: int, alphabet: int) -> bool:
    """Whether a stream is worth trying: a decision takes a microsecond, and large alphabets need many and gain little."""
    return 1 < alphabet <= _MOST_SYMBOLS and 32 <= count <= _MOST_CODES


def encode(symbols: np.ndarray, layout: Layout) -> bytes:
    """Return symbols as the range coder's words.

    Args:
        symbols: (N,) below the layout's alphabet.
        layout: of them.
    """
    coder = need("constriction").stream.queue.RangeEncoder()
    model = need("constriction").stream.model.Bernoulli(perfect=False)

    def take(bits: np.ndarray | None, chance: np.ndarray, places: np.ndarray) -> np.ndarray:
        assert bits is not None
        coder.encode(bits.astype(np.int32), model, chance / _ONE)
        return bits

    _walk(symbols, layout, take)
    return coder.get_compressed().astype("<u4").tobytes()


def decode(reader: Reader, count: int, layout: Layout) -> np.ndarray:
    """Return the symbols, (count,).

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    data = reader.rest()
    if len(data) % 4:
        raise ValueError("its words are cut")
    coder = need("constriction").stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
    model = need("constriction").stream.model.Bernoulli(perfect=False)

    def take(bits: np.ndarray | None, chance: np.ndarray, places: np.ndarray) -> np.ndarray:
        try:
            return coder.decode(model, chance / _ONE) == 1
        except AssertionError as error:  # constriction's word for it
            raise ValueError("its words are none of the range coder's") from error

    known = Model(layout, count)
    codes = np.empty(count, np.int64)
    for block in known.blocks():
        codes[block] = known.code(block, None, take)
    if count and not (-layout.zero <= codes.min() and codes.max() < layout.alphabet - layout.zero):
        raise ValueError("a code in it is none")
    return codes + layout.zero


def _walk(symbols: np.ndarray, layout: Layout, take: Take) -> None:
    known, codes = Model(layout, len(symbols)), symbols.astype(np.int64) - layout.zero
    for block in known.blocks():
        known.code(block, codes[block], take)


def cost(codes: np.ndarray) -> np.ndarray:
    """Return the bits that the coder spends on each code of a tensor, in the shape of the tensor; their sum is the size of the stream.

    Args:
        codes: whole numbers of any shape, as distances from zero in steps of size; rows are the first dimension, the kernel of a convolution the third and on.
    """
    flat = codes.reshape(-1).astype(np.int64)
    columns, inner = math.prod(codes.shape[1:]), math.prod(codes.shape[2:]) if codes.ndim > 2 else 1
    low, high = min(0, int(flat.min(initial=0))), max(0, int(flat.max(initial=0)))
    layout = Layout(high - low + 1, columns, -low, inner)
    spent, block = np.zeros(len(flat)), slice(0, 0)

    def take(bits: np.ndarray | None, chance: np.ndarray, places: np.ndarray) -> np.ndarray:
        assert bits is not None
        spent[block.start + places] -= np.log2(np.where(bits, chance, _ONE - chance) / _ONE)
        return bits

    known = Model(layout, len(flat))
    for block in known.blocks():
        known.code(block, flat[block], take)
    return spent.reshape(codes.shape)

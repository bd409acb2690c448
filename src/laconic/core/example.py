"""Example inputs: made from shapes, types and coarse ranges of values, never taken from data.

A program needs inputs to run on: to compare two programs, to know shapes, to be exported anew. What it was captured with may be private, so a program, its
copies and its files know only what `Sample` says. Ranges are rounded to powers of two, so that they tell no value of the data either.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from laconic.core.wording import shorten

_TRIES = 64
_LARGEST = 1 << 32  # elements of an example input
_REFUSALS = (RuntimeError, IndexError, ValueError, AssertionError)  # of operators that cannot take their inputs


@dataclass(frozen=True)
class Sample:
    """How one example input is made: uniform values of a shape and a type between two ends (both included, of whole numbers)."""

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float

    @classmethod
    def of(cls, leaf: Tensor) -> Sample:
        """Describe a tensor by its shape, its type and a coarse range."""
        dtype = str(leaf.dtype).removeprefix("torch.")
        if leaf.is_complex():
            return cls(tuple(leaf.shape), dtype, -1.0, 1.0)
        if not leaf.is_floating_point():
            whole = leaf.to(torch.int64)
            ends = (int(whole.min()), int(whole.max())) if leaf.numel() else (0, 0)
            return cls(tuple(leaf.shape), dtype, *_inside(*ends))
        finite = leaf.detach().double()
        finite = finite[finite.isfinite()]
        low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
        return cls(tuple(leaf.shape), dtype, -_power_of_two(-low), _power_of_two(high))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        """Read back plain values.

        Raises:
            ValueError: sizes that are none, or larger than any example; an unknown dtype; ends that are no numbers.
        """
        shape, low, high = tuple(data["shape"]), data["low"], data["high"]
        if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) > _LARGEST:
            raise ValueError(f"the example's shape {shorten(shape)} is none, or larger than any example")
        if not all(type(end) in (int, float) for end in (low, high)):
            raise ValueError(f"{shorten(low)} to {shorten(high)} is no range of numbers")
        return cls(shape, dtype_name(data["dtype"]), low, high)

    def make(self, seed: int) -> Tensor:
        """Make the tensor; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        dtype: torch.dtype = getattr(torch, dtype_name(self.dtype))
        if dtype.is_complex:
            return torch.randn(self.shape, dtype=dtype, generator=generator)
        if dtype.is_floating_point:
            unit = torch.rand(self.shape, dtype=torch.float64, generator=generator)
            largest = torch.finfo(dtype).max  # a power of two above it would be infinite
            return (self.low + (self.high - self.low) * unit).clamp(-largest, largest).to(dtype)
        return torch.randint(int(self.low), int(self.high) + 1, self.shape, generator=generator).to(dtype)


def dtype_name(name: object) -> str:
    """Return the name of a dtype as it is, e.g. ``float32``.

    Raises:
        ValueError: there is none of this name.
    """
    if isinstance(name, str) and isinstance(vars(torch).get(name), torch.dtype):
        return name
    raise ValueError(f"unknown dtype {shorten(name)}")


def generate(samples: Sequence[Sample]) -> tuple[Tensor, ...]:
    """Make the example inputs that these samples describe; always the same."""
    return tuple(sample.make(seed) for seed, sample in enumerate(samples))


def samples_like(
    leaves: Sequence[Tensor], run: Callable[..., Sequence[Tensor]], few: Callable[[Sequence[Tensor]], Sequence[Tensor]] = list
) -> tuple[Sample, ...] | None:
    """Describe inputs of the kind of `leaves` on which a model runs as it does on them.

    Values that a model cannot take together (a mask that leaves nothing to attend to, a length longer than the sequence) show themselves in an error or in
    outputs that are not finite. Then whole numbers are set to one end of their range, and numbers to the middle of theirs.

    Args:
        leaves: inputs that the model takes; only read.
        run: flat inputs to flat outputs.
        few: some examples of flat inputs, with which to run.

    Returns:
        None where nothing of the kind works.
    """
    samples = tuple(Sample.of(leaf) for leaf in leaves)
    with contextlib.suppress(*_REFUSALS):
        if _broken(run(*few(_made(samples, leaves)))) == (False, False):  # as nearly always; then the leaves need not be run
            return samples
    try:
        wanted = _broken(run(*few(leaves)))
    except _REFUSALS:  # inputs that do not go together any more when they are cut
        few, wanted = list, _broken(run(*leaves))
    for choice in itertools.islice(_choices(samples), _TRIES):
        with contextlib.suppress(*_REFUSALS):
            if _no_worse(_broken(run(*few(_made(choice, leaves)))), wanted):
                return choice
    return None


def _made(samples: Sequence[Sample], leaves: Sequence[Tensor]) -> list[Tensor]:
    return [leaf.to(given.device) for leaf, given in zip(generate(samples), leaves, strict=True)]


def _choices(samples: Sequence[Sample]) -> Iterator[tuple[Sample, ...]]:
    """Yield random values first; then ever more inputs at an end or in the middle of their range."""
    options = [(sample, *_fixed(sample)) for sample in samples]
    numbered = itertools.product(*(range(len(option)) for option in options))
    for indices in (
        sorted(numbered, key=lambda item: sum(index > 0 for index in item)) if math.prod(map(len, options)) < 10_000 else numbered
    ):
        yield tuple(option[index] for option, index in zip(options, indices, strict=True))


def _fixed(sample: Sample) -> Iterator[Sample]:
    if sample.low == sample.high:
        return
    if sample.dtype.startswith(("float", "bfloat")):
        middle = (sample.low + sample.high) / 2
        yield replace(sample, low=middle, high=middle)
        return
    yield replace(sample, low=sample.high)
    yield replace(sample, high=sample.low)


def _broken(outputs: Sequence[Tensor]) -> tuple[bool, bool]:
    """Return whether there is an output that is no number, or infinite."""
    real = [out for out in outputs if out.is_floating_point()]
    return any(bool(out.isnan().any()) for out in real), any(bool(out.isinf().any()) for out in real)


def _no_worse(broken: tuple[bool, bool], wanted: tuple[bool, bool]) -> bool:
    return all(new <= old for new, old in zip(broken, wanted, strict=True))


def _power_of_two(value: float) -> float:
    """Return the nearest power of two that is not less; of a negative number, the one nearer to zero.

    >>> _power_of_two(0.3), _power_of_two(2.0), _power_of_two(0.0), _power_of_two(-0.3)
    (0.5, 2.0, 0.0, -0.25)
    """
    if value == 0:
        return 0.0
    mantissa, exponent = math.frexp(abs(value))  # abs(value) = mantissa * 2**exponent, mantissa in [0.5, 1)
    if value < 0 or mantissa == 0.5:
        exponent -= 1
    return math.copysign(math.ldexp(1.0, exponent), value)


def _inside(low: int, high: int) -> tuple[int, int]:
    """Return a range of whole numbers inside another one, with as few binary digits as possible; zero is its lower end where it can be.

    >>> _inside(0, 999), _inside(1, 1), _inside(3, 700), _inside(17, 20), _inside(-100, 7), _inside(-9, -3)
    ((0, 512), (1, 1), (4, 512), (20, 20), (0, 4), (-8, -4))
    """
    if low <= 0 <= high:
        return (0, _short(high, 1)) if high else (-_short(-low, 1), 0)
    if high < 0:
        least, most = _inside(-high, -low)
        return -most, -least
    for digits in range(1, high.bit_length() + 1):
        most = _short(high, digits)
        if most >= low:
            least = 1 << (low - 1).bit_length()
            return (least if low <= least <= most else most), most
    return high, high


def _short(value: int, digits: int) -> int:
    """Return the largest whole number with so many leading binary digits that is not more."""
    shift = max(0, value.bit_length() - digits)
    return value >> shift << shift

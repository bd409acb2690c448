"""Rounded arrays, which stay codes until somebody needs floats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from laconic.deploy.xla.late import jnp


@dataclass(frozen=True)
class Codes:
    """A rounded array.

    Attributes:
        array: int8 codes.
        scale: step, one, or one for each slice along `axis`.
        zero: the code of 0.0, likewise.
        axis: along which scales differ; None for one.
    """

    array: Any
    scale: Any
    zero: Any
    axis: int | None = None

    @property
    def around_zero(self) -> bool:
        """Whether the zero point is known to be 0."""
        return isinstance(self.zero, int) and self.zero == 0

    def _spread(self, value: Any) -> Any:
        """A scale or zero point as it is broadcast to the array."""
        if self.axis is None or not value.ndim:
            return value
        return value.reshape([-1 if axis == self.axis else 1 for axis in range(self.array.ndim)])

    def dense(self) -> Any:
        """Return floats."""
        shifted = self.array.astype("int32") - (self.zero if isinstance(self.zero, int) else self._spread(self.zero).astype("int32"))
        scale = self.scale if isinstance(self.scale, float) else self._spread(self.scale)
        return shifted.astype("float32") * jnp.asarray(scale, "float32")

    def turned(self) -> Codes:
        """Return a matrix with its two dimensions swapped."""
        return replace(self, array=self.array.T, axis=None if self.axis is None else 1 - self.axis)

    @staticmethod
    def floats(value: Any) -> Any:
        """Return floats of codes; what is no codes as it is."""
        return value.dense() if isinstance(value, Codes) else value

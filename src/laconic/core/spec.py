"""What one tensor of a call looks like. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laconic.core.errors import BadInput
from laconic.core.wording import shorten


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name, its shape (a string is a dynamic dimension) and its dtype, e.g. ``float32``."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read back plain values.

        Raises:
            ValueError: a name that is no text, a size that is neither a name nor a number of 0 or more, an unknown dtype.
        """
        from laconic.core.example import dtype_name  # it imports PyTorch, which a machine that only runs a file need not have

        name, shape = data["name"], tuple(data["shape"])
        if not isinstance(name, str) or not all(isinstance(size, str) or (type(size) is int and size >= 0) for size in shape):
            raise ValueError(f"{shorten(name)} of the shape {shorten(shape)} is no tensor")
        return cls(name, shape, dtype_name(data["dtype"]))

    def concrete(self, **sizes: int) -> tuple[int, ...]:
        """Return the shape with numbers for the named dimensions.

        >>> TensorSpec("x", ("batch", 3), "float32").concrete(batch=8)
        (8, 3)
        """
        missing = [dim for dim in self.shape if isinstance(dim, str) and dim not in sizes]
        if missing:
            raise BadInput(f"input '{self.name}' has the dynamic dimension '{missing[0]}': say how long it is to be, e.g. {missing[0]}=64")
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)

"""Fourier transforms and complex numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.deploy.xla.late import jnp
from laconic.deploy.xla.rules.table import Call, lowers

_FORWARD = ("backward", "ortho", "forward")  # by PyTorch's number: no factor, 1 / √n, 1 / n
_BACKWARD = ("forward", "ortho", "backward")


@lowers("_fft_r2c")
def fft_real(call: Call, x: Any, dims: Sequence[int], norm: int, onesided: bool) -> Any:
    """Transform real numbers."""
    if onesided:
        return jnp.fft.rfftn(x, axes=dims, norm=_FORWARD[norm])
    return jnp.fft.fftn(x, axes=dims, norm=_FORWARD[norm])


@lowers("_fft_c2c")
def fft_complex(call: Call, x: Any, dims: Sequence[int], norm: int, forward: bool) -> Any:
    """Transform complex numbers, there or back."""
    return jnp.fft.fftn(x, axes=dims, norm=_FORWARD[norm]) if forward else jnp.fft.ifftn(x, axes=dims, norm=_BACKWARD[norm])


@lowers("_fft_c2r")
def fft_back(call: Call, x: Any, dims: Sequence[int], norm: int, last: int) -> Any:
    """Transform back to real numbers."""
    sizes = [*(x.shape[dim] for dim in dims[:-1]), last]
    return jnp.fft.irfftn(x, s=sizes, axes=dims, norm=_BACKWARD[norm])


@lowers("view_as_real", "view_as_real_copy")
def view_as_real(call: Call, x: Any) -> Any:
    """Give both parts, as a last dimension."""
    return jnp.stack([jnp.real(x), jnp.imag(x)], axis=-1)


@lowers("view_as_complex", "view_as_complex_copy")
def view_as_complex(call: Call, x: Any) -> Any:
    """Join two parts."""
    return x[..., 0] + 1j * x[..., 1]


@lowers("complex")
def complex_(call: Call, real: Any, imaginary: Any) -> Any:
    """Join two parts."""
    return real + 1j * imaginary


@lowers("polar")
def polar(call: Call, size: Any, angle: Any) -> Any:
    """Give complex numbers of sizes and angles."""
    return size * jnp.cos(angle) + 1j * (size * jnp.sin(angle))

"""JAX, imported when something of it is first asked for, so that reading the table of operators needs no JAX."""

from __future__ import annotations

from typing import Any

from laconic.core.errors import need


class _Late:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(need(self._module, "xla"), name)


jax, jnp, lax, nn, export = (_Late(name) for name in ("jax", "jax.numpy", "jax.lax", "jax.nn", "jax.export"))

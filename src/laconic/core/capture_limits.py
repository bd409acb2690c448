"""What the graph of a program does not do as its module does, noticed at capture and kept with the program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from laconic.core.errors import BadInput


@dataclass(frozen=True)
class CaptureLimits:
    """What a captured graph cannot carry.

    Attributes:
        custom_gradients: classes of `torch.autograd.Function` and hooks whose backward pass the graph has not: its gradients are others than the module's.
        state: buffers (or parameters) that forward changes and answers depend on: a file that ships would forget them or start from elsewhere.
        autocast: the data types of `torch.autocast` regions inside forward; the graph computes them in float32.
    """

    custom_gradients: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    autocast: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Iterable[str]]) -> CaptureLimits:
        """Read back plain values; what is missing is empty."""
        return cls(**{name: tuple(data.get(name, ())) for name in cls.__dataclass_fields__})

    def check_trainable(self, step: str) -> None:
        """Refuse to train a graph whose gradients are not the module's.

        Raises:
            BadInput: names the classes.
        """
        if self.custom_gradients:
            raise BadInput(
                f"'{step}' trains the captured graph, and the model defines a gradient of its own ({', '.join(self.custom_gradients)}, a "
                "torch.autograd.Function or a hook), which the graph does not have: its custom gradient would be lost. Train the module itself "
                "(laconic.fit(module, …)) and capture it then, or choose epochs=0."
            )

    def check_stateless(self, what: str) -> None:
        """Refuse to write a file of a graph that changes its own buffers.

        Raises:
            BadInput: names the buffers.
        """
        if self.state:
            names = ", ".join(f"'{name}'" for name in self.state)
            raise BadInput(
                f"{what}: forward changes the buffer {names}, and answers depend on it; a file that ships cannot keep such state from call to call. "
                "Make the state an input and an output of forward, or compute it from the inputs."
            )

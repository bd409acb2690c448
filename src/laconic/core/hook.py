"""What is called after each optimizer step of a training, and what of it a checkpoint keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

Hook = Callable[[nn.Module, float], None]  # (model, progress in [0, 1]); the gradients of the step are still there


class StatefulHook(ABC):
    """A hook that remembers something from step to step. A checkpoint of the training keeps it, so that an interrupted one ends bit-equal."""

    @abstractmethod
    def __call__(self, model: nn.Module, progress: float) -> None:
        """Act after an optimizer step.

        Args:
            model: the part that will be delivered.
            progress: of the training, in [0, 1].
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""

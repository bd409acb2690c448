"""How much of a signal is left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

LOST_DB = -300.0  # nothing of the signal is left, or something is no longer a number


def sqnr_db(signal: Sequence[Tensor], noisy: Sequence[Tensor]) -> float:
    """Return the signal-to-noise ratio over all tensors, in dB: infinite where they are the same, `LOST_DB` at the least."""
    power = sum(float(a.double().square().sum()) for a in signal)
    noise = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(signal, noisy, strict=True))
    if noise == 0:
        return math.inf
    return max(10 * math.log10(power / noise), LOST_DB) if power > 0 and math.isfinite(noise) else LOST_DB

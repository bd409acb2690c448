"""Post-training quantization: int8 activations and weights where the target computes with integers, or weights alone."""

from __future__ import annotations

from laconic.core.context import Context
from laconic.core.program import Program
from laconic.core.records import Outcome
from laconic.core.step import step
from laconic.core.task import Task
from laconic.quantization.dynamic import weights_only
from laconic.quantization.layers import as_context
from laconic.quantization.options import Quantize as Quantize
from laconic.quantization.static import static


@step("quantize", Quantize, float32=True)
def quantize(program: Program, config: Quantize | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Quantize a copy of a program.

    Args:
        program: in eval mode; not changed.
        config: how; by default static int8.
        context: or the task alone; calibration draws from its train data.

    Returns:
        A program whose graph rounds what the target rounds (see `core.fake_quant`), and what was done: ranges, what stayed float and why.

    Raises:
        BadInput: no data to calibrate with, values that are not finite (names the layer), an unknown target or path, no operator that could be rounded.
    """
    config, context = config or Quantize(), as_context(context)
    return (static if config.mode == "static" else weights_only)(program, config, context)

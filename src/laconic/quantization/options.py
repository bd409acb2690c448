"""The options of post-training quantization, which of them go together, and the codes of weights that they ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from laconic.core.choices import FLOATS, Kind
from laconic.core.errors import BadInput, nearest
from laconic.core.step import Stage, StepConfig
from laconic.quantization.observers import OBSERVERS
from laconic.quantization.placement import TARGETS
from laconic.quantization.scheme import (
    WEIGHT_AFFINE_INT4,
    WEIGHT_AFFINE_INT8,
    WEIGHT_HALF,
    WEIGHT_INT4,
    WEIGHT_INT8,
    Scheme,
    full_range,
)

Mode = Literal["static", "dynamic", "weights"]
_GROUP = 64
ALPHA = 0.5  # SmoothQuant's


@dataclass(frozen=True)
class Quantize(StepConfig):
    """Post-training quantization.

    Args:
        mode: ``static`` (activations rounded to ranges seen in calibration), ``dynamic`` (to each input's own range) or ``weights`` (weights alone).
        target: runtime whose integer kernels are aimed at: ``openvino`` or ``onnxruntime``; None takes the one that the recipe deploys to.
        bits: of weights; 4 goes with the mode ``weights``.
        group: neighboring inputs of a linear layer's weight that share a scale, mode ``weights``; 0: each output has one; None: 64 with 4 bits, else 0.
        scheme: of weights: ``symmetric`` around 0, or ``affine``: the range from lowest to highest value (and 0) is normalized, rounded to codes and rescaled
            with a scale and an offset, which is a whole number of steps (the zero point). Affine goes with mode ``weights``, and with ``static`` for
            ``onnxruntime`` with one scale a tensor.
        per_channel: a scale for each output channel of a weight; else one for the whole tensor.
        examples: of the train data that are calibrated with.
        observer: how a range is chosen, mode ``static``: a name in `observers.OBSERVERS`; None: ``minmax``.
        smooth: SmoothQuant's alpha for linear layers behind a layer norm, mode ``static``; ``auto``: 0.5 there; None leaves it out.
        equalize: cross-layer equalization of convolutions.
        correct_bias: take the mean rounding error out of the biases.
        rounding: of weights: to the ``nearest`` code, or ``adaptive`` (AdaRound).
        embeddings: also round embedding tables.
        reduce_range: weights within ±63, so that sums of products fit into 16 bits; None does so where the processor has no wider sums. Not for weights that
            are turned into floats before they are multiplied (mode ``weights``).
        min_sqnr_db: layers whose output would keep less signal over noise on the calibration data stay float; None rounds all.
        keep: module paths, or operators by the name in reports, that stay float.
        batch_size: of calibration.
    """

    stage: ClassVar[Stage] = "rounding"
    calibrates: ClassVar[bool] = True
    section: ClassVar[str] = "quantization"

    mode: Mode = "static"
    target: str | None = None
    bits: Literal[8, 4] = 8
    group: int | None = None
    scheme: Literal["symmetric", "affine"] = "symmetric"
    per_channel: bool = True
    examples: int = 256
    observer: str | None = None
    smooth: float | Literal["auto"] | None = "auto"
    equalize: bool = False
    correct_bias: bool = True
    rounding: Literal["nearest", "adaptive"] = "nearest"
    embeddings: bool = True
    reduce_range: bool | None = None
    min_sqnr_db: float | None = 10.0
    keep: tuple[str, ...] = ()
    batch_size: int = 8

    def __post_init__(self) -> None:
        mistakes = [*_out_of_range(self), *_without_effect(self)]
        if mistakes:
            raise BadInput("the quantization makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))

    def words(self) -> str:
        """Return the mode, and the bits where they are not 8: `quantize weights int4`."""
        return f"quantize {self.mode}" + (f" int{self.bits}" if self.bits != 8 else "")

    def depends_on_target(self) -> bool:
        """Return whether the kernels aimed at are those of the runtime behind it."""
        return self.target is None

    def integer_bits(self) -> int | None:
        """Return the bits of weights."""
        return self.bits

    def choices(self) -> Mapping[tuple[Kind, str], int | str] | None:
        """Return the layers that stay in floats."""
        return {("bits", path): FLOATS for path in self.keep}

    @property
    def alpha(self) -> float | None:
        """SmoothQuant's alpha, None where nothing is smoothed."""
        return (ALPHA if self.mode == "static" else None) if self.smooth == "auto" else self.smooth


def _out_of_range(config: Quantize) -> Iterator[str]:
    if config.observer is not None and config.observer not in OBSERVERS:
        yield f"observer: '{config.observer}'." + nearest(config.observer, OBSERVERS)
    if config.bits == 4 and config.mode != "weights":
        yield "bits: 4 goes with mode 'weights' only; no runtime here multiplies 4-bit activations"
    if config.examples < 1 or config.batch_size < 1 or (config.group or 0) < 0:
        yield "examples and batch_size must be 1 or more, group 0 or more"
    if isinstance(config.smooth, (int, float)) and not 0 < config.smooth < 1:
        yield f"smooth: {config.smooth} must lie between 0 and 1, or be None"
    if config.target is not None:
        yield from kernel_mistakes(config, config.target)


# option -> the modes in which it does something, what it is where it was not given, and why it does nothing elsewhere
_ACTS: dict[str, tuple[tuple[Mode, ...], Any, str]] = {
    "observer": (("static",), None, "ranges of activations are chosen in calibration there"),
    "smooth": (("static",), "auto", "it moves the range of activations into the weights behind them"),
    "reduce_range": (("static", "dynamic"), None, "weights are turned into floats before they are multiplied, no sum can overflow"),
    "group": (("weights",), None, "integer kernels take one scale for each output channel"),
}


def _without_effect(config: Quantize) -> Iterator[str]:
    for name, (modes, absent, why) in _ACTS.items():
        value = getattr(config, name)
        if config.mode not in modes and value not in (absent, 0 if name == "group" else absent):
            yield f"{name}: {value!r} does nothing in mode '{config.mode}', only in {' and '.join(map(repr, modes))}: {why}. Leave it out"
    if config.group and not config.per_channel:
        yield f"group: {config.group} and per_channel: False contradict each other: a group is a part of a channel. Give one of them"


def kernel_mistakes(config: Quantize, target: str) -> Iterator[str]:
    """Yield what a target has no kernel for; one without placement rules is refused elsewhere."""
    rules = TARGETS.get(target)
    if config.scheme == "affine" and config.mode == "dynamic":
        yield "scheme: 'affine' does not go with mode 'dynamic': its integer products take weights around 0. Use mode 'weights'"
    elif config.scheme == "affine" and config.mode == "static" and not (rules and rules.affine):
        yield f"scheme: 'affine' does not go with mode 'static' and target '{target}', which computes with weights around 0. Use mode 'weights'"
    elif config.scheme == "affine" and config.mode == "static" and config.per_channel:
        yield "scheme: 'affine' in mode 'static' takes per_channel=False: convolutions have one zero point for all channels there"


def check_kernels(config: Quantize, target: str) -> None:
    """Refuse what the target has no kernel for.

    Raises:
        BadInput: names the option and the way round.
    """
    if mistakes := list(kernel_mistakes(config, target)):
        raise BadInput("; ".join(mistakes))


def weight_scheme(config: Quantize) -> tuple[Scheme, bool]:
    """Codes of weights, and whether they keep to half the range: only where integer products are summed."""
    half = config.reduce_range if config.reduce_range is not None else config.mode != "weights" and not full_range()
    half = half and config.scheme == "symmetric"
    base = _CODES[config.scheme, config.bits]
    group = (_GROUP if config.bits == 4 and config.per_channel else 0) if config.group is None else config.group
    return replace(WEIGHT_HALF if half else base, axis=0 if config.per_channel else None, group=group), half


_CODES = {
    ("symmetric", 8): WEIGHT_INT8,
    ("symmetric", 4): WEIGHT_INT4,
    ("affine", 8): WEIGHT_AFFINE_INT8,
    ("affine", 4): WEIGHT_AFFINE_INT4,
}

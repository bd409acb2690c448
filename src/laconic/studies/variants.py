"""What `studies.compare` can compare: ways to train, by kind, each a change of the plan and of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils._pytree import tree_leaves

from laconic.core.errors import BadInput, nearest
from laconic.core.plan import Scaled
from laconic.train import augment
from laconic.train.augment import Augmenter, kind_of
from laconic.train.insert import InsertBatchNorm, InsertDropout


@dataclass(frozen=True)
class Variant:
    """One way to train: what it changes in the plan, and the steps that change the graph before."""

    name: str
    plan: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Any, ...] = ()


def rates(inputs: Any) -> list[Variant]:
    """List schedules of the learning rate, the constant one first."""
    names = ("constant", "step", "exponential", "cosine", "triangular", "triangular2", "one_cycle", "inverse_sqrt", "plateau")
    return [Variant(name, {"schedule": name, "warmup": 0.0}) for name in names]


# What is combined where nobody asks for something else.
_TOGETHER: dict[str, dict[str, tuple[str, ...]]] = {
    "image": {"rotation+scale": ("rotation", "scale"), "all": ("crop", "rotation", "scale", "color")},
    "series": {"all": ("jitter", "scaling", "time_warp", "window_slice")},
    "text": {"all": ("synonym", "insertion", "swap", "deletion")},
}


def augmentations(inputs: Any) -> list[Variant]:
    """List no augmentation, each of those for this kind of data, and some together."""
    kind = next(kind_of_leaf for leaf in tree_leaves(inputs) if (kind_of_leaf := kind_of(leaf)) is not None)
    single = {name: (name,) for name in augment.augmentations()[kind]}
    several = {**single, **_TOGETHER[kind]}
    return [Variant("none"), *(Variant(name, {"augment": tuple(Scaled(part) for part in parts)}) for name, parts in several.items())]


def regularizations(inputs: Any) -> list[Variant]:
    """List no regularization, penalties, insertions and what else keeps a net from learning its examples by heart."""
    return [
        Variant("none", {"weight_decay": 0.0}),
        Variant("l2", {"weight_decay": 0.0, "regularize": (Scaled("l2", 1e-3),)}),
        Variant("decoupled decay", {"weight_decay": 1e-1}),
        Variant("l1", {"weight_decay": 0.0, "regularize": (Scaled("l1", 1e-3),)}),
        Variant("dropout", {"weight_decay": 0.0}, (InsertDropout(p=0.2),)),
        Variant("batch-norm", {"weight_decay": 0.0}, (InsertBatchNorm(),)),
        Variant("label smoothing", {"weight_decay": 0.0, "label_smoothing": 0.1}),
        Variant("sam", {"weight_decay": 0.0, "sam": 0.05}),
        Variant("ema", {"weight_decay": 0.0, "average": "ema"}),
    ]


KINDS: dict[str, Callable[[Any], list[Variant]]] = {"lr": rates, "augment": augmentations, "regularize": regularizations}


def chosen(kind: str, choices: Sequence[str] | None, inputs: Any) -> list[Variant]:
    """Return the variants of a kind with these names, the first of the kind before them; None: all.

    Args:
        kind: a name in `KINDS`.
        choices: names; augmentations combine, with strengths: ``flip+erasing=0.5``.
        inputs: of a batch, which tells the kind of data.

    Raises:
        BadInput: names that are unknown or do not go together, all told at once.
    """
    every = {variant.name: variant for variant in KINDS[kind](inputs)}
    if choices is None:
        return list(every.values())
    first = next(iter(every))
    variants, mistakes = {first: every[first]}, []
    for name in choices:
        try:
            variants[name] = every[name] if name in every else _combined(name, every, kind)
        except BadInput as error:
            mistakes.append(str(error))
    if mistakes:
        raise BadInput("\n".join(mistakes))
    return list(variants.values())


def _combined(name: str, every: Mapping[str, Variant], kind: str) -> Variant:
    """Put augmentations one behind the other, each with a strength: ``flip+erasing=0.5``.

    Raises:
        BadInput: a part is unknown, a strength is none, or they do not go together.
    """
    parts: list[Scaled] = []
    for part in name.split("+") if kind == "augment" else (name,):
        known, given, strength = part.partition("=") if kind == "augment" else (part, "", "")
        if known not in every:
            raise BadInput(f"'{known}' is no variant to compare here." + nearest(known, every))
        try:
            factor = float(strength) if given else 1.0
        except ValueError:
            raise BadInput(f"'{part}': the strength '{strength}' is no number") from None
        parts += [Scaled(choice.name, choice.strength * factor) for choice in every[known].plan.get("augment", ())]
    Augmenter(parts, synonyms=lambda ids: ids[:, None])  # checks them; the model's own synonyms come later
    return Variant(name, {"augment": tuple(parts)})

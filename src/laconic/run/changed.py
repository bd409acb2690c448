"""Which answers differ between a model and what was made of it: how many, of which classes, for better or worse."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from laconic.core.answers import Answers
from laconic.tasks.metrics import MetricSpec

_FLOWS = 8  # most frequent changes from one answer to another that are kept
_CLASSES = 1000  # classes at the most that are kept one by one


def changed(metric: MetricSpec, before: Tensor, after: Tensor, target: Any) -> dict[str, Any] | None:
    """Compare the answers of two models on the same examples.

    Args:
        metric: says how logits answer a target.
        before: logits of the model (n, …).
        after: those of what was made of it.
        target: (n, …).

    Returns:
        ``n`` answers that count, how many of them ``changed``, got ``worse`` (right before, wrong now) and ``better``; ``classes``: the same by class of the
        target (of labels, by label), those with a change; ``flows``: the most frequent changes (``from``, ``to``, ``n``), of classes. None where answers
        are numbers, or where a user's own metric reads the logits.
    """
    if metric.read is None:
        return None
    target = metric.pick(target)
    old, new = metric.read(before, target), metric.read(after, target)
    if old.form == "values":
        return None
    known = old.known
    was, now, true = (values[known] for values in (old.predicted, new.predicted, old.target))
    classes = _classes(old)[known]
    other, wrong, right = was != now, (was == true) & (now != true), (was != true) & (now == true)
    rows = [
        {"class": int(c), **{name: int((mask & (classes == c)).sum()) for name, mask in _masks(other, wrong, right).items()}}
        for c in torch.unique(classes[other])[:_CLASSES]
    ]
    return {
        **{name: int(mask.sum()) for name, mask in _masks(other, wrong, right).items()},
        "form": old.form,
        "classes": sorted(rows, key=lambda row: -row["changed"]),
        "flows": _flows(was[other], now[other]) if old.form == "classes" else [],
    }


def _masks(other: Tensor, wrong: Tensor, right: Tensor) -> dict[str, Tensor]:
    return {"n": torch.ones_like(other), "changed": other, "worse": wrong, "better": right}


def _classes(answers: Answers) -> Tensor:
    """Return the class that each entry is about: the target's; of labels, the label's number."""
    if answers.form == "classes":
        return answers.target
    return torch.arange(answers.scores.shape[-1]).expand(answers.target.shape)


def _flows(was: Tensor, now: Tensor) -> list[dict[str, int]]:
    counts = Counter(zip(was.tolist(), now.tolist(), strict=True))
    return [{"from": old, "to": new, "n": n} for (old, new), n in counts.most_common(_FLOWS)]

"""What another package may add to Laconic, one of each kind, without touching a file of it; `test_extensions.py` uses them as a user does."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

import laconic as lc
from laconic.core.operators import set_argument
from laconic.core.quantities import Evidence, Limit, Objective, Quantity
from laconic.core.step import Stage, StepConfig
from laconic.deploy.ort import OnnxRuntime
from laconic.distill.losses import Soft
from laconic.pruning import criteria
from laconic.pruning.coupling import Group
from laconic.pruning.rules.table import Masking, OperatorRule
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import Tracer, Value
from laconic.pruning.unstructured.criteria import Seen
from laconic.search.lever import Lever, Setting
from laconic.train.augment import Augmentation

# A step: a frozen dataclass and its function.


@dataclass(frozen=True)
class Snap(StepConfig):
    """Set the smallest weights of each matrix and kernel to zero.

    Args:
        share: of the weights that go.
    """

    share: float = 0.1
    stage: ClassVar[Stage] = "pruning"
    section: ClassVar[str] = "acme"

    def words(self) -> str:
        """See `StepConfig.words`."""
        return f"snap {100 * self.share:g} %"


def snap(program: lc.Program, config: Snap, context: lc.Context) -> tuple[lc.Program, lc.Outcome]:
    """Apply `Snap` to a copy."""
    result, zeroed = copy.deepcopy(program), 0
    with torch.no_grad():
        for weight in result.parameters():
            if weight.dim() > 1:
                edge = weight.abs().flatten().kthvalue(max(1, int(config.share * weight.numel()))).values
                zeroed += int((weight.abs() <= edge).sum())
                weight[weight.abs() <= edge] = 0.0
    return result, lc.Outcome("acme_snap", {"zeroed_weights": zeroed})


# A lever: what may be tried, by a step that is there.
SNAP = Lever("acme_snap", "set the smallest weights to zero", (Setting("0.1", {"share": 0.1}),), (Snap,), field="share", reads=float)


# A runtime: a class.
class AcmeRuntime(OnnxRuntime):
    """ONNX Runtime under another name."""

    name = "acme_rt"
    title = "Acme RT"
    quantizes = ""


# A quantity: a row, and what measures it. The meter of this example always reads five watts.
def energy(evidence: Evidence) -> lc.Measurement | None:
    """Millijoules of one call."""
    latency = evidence.measured.get("latency_ms")
    return None if latency is None or latency.value is None else lc.Measurement(5.0 * latency.value, "mJ", latency.n)


ENERGY = Quantity(
    "acme_energy_mj",
    "Energy of a call",
    "mJ",
    exact=True,
    limit=Limit("max_acme_energy_mj", "mJ", words="at most {} mJ a call"),
    objective=Objective("acme_energy"),
    measure=energy,
)

# An augmentation and a loss of distillation: rows.
SHIFT = Augmentation(lambda batch, strength: batch + 0.1 * strength, "tenths that are added", "here", kinds=("image", "series"))
ABSOLUTE = Soft(lambda student, teacher, target, temperature: (student - teacher).abs().mean(), "here", classes=1)


# A criterion: a function of the evidence and a group.
def cubes(evidence: criteria.Evidence, group: Group) -> Tensor:
    """Score each component by the sum of \\|w\\|³ over the slices that make it."""
    return criteria.component_sums(criteria.producing(evidence.coupling, group), len(group), lambda name, values: values.abs() ** 3)


CRITERION = criteria.Criterion(cubes)


# A criterion for single weights: a function of what is seen of one weight.
def square(seen: Seen) -> Tensor:
    """Score by w²."""
    return seen.weight.square()


# An operator and its rule: what it does to the ids of its input's dimensions.
@torch.library.custom_op("acme::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """Two times x, of any shape."""
    return 2 * x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def twice_rule(tracer: Tracer, node: fx.Node) -> Value:
    """Each number comes from the number at its place."""
    return tracer.value(node.args[0])


# An operator that computes over the channels and knows how many there are: beside the ids, its rule says what becomes of that number, and what the operator
# computes where some are zero.
@torch.library.custom_op("acme::centered", mutates_args=())
def centered(x: Tensor, size: int) -> Tensor:
    """Subtract from x (…, C) the sum over C divided by `size`."""
    return x - x.sum(-1, keepdim=True) / size


@centered.register_fake
def _(x: Tensor, size: int) -> Tensor:
    return torch.empty_like(x)


def centered_edit(surgeon: Surgeon, old: fx.Node, new: fx.Node) -> None:
    """Write how many channels are left."""
    set_argument(new, 1, surgeon.count(surgeon.dims(old)[-1]))


def centered_mask(run: Masking, node: fx.Node, args: Any, kwargs: Any) -> Tensor:
    """Center what is there."""
    mask = run.mask(node.all_input_nodes[0], [args[0].dim() - 1], args[0])
    return args[0] - (args[0] * mask).sum(-1, keepdim=True) / mask.expand(args[0].shape).sum(-1, keepdim=True)


CENTERED = OperatorRule(twice_rule, edit=centered_edit, mask=centered_mask)


class Twice(nn.Module):
    """A net with the operators in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 3)."""
        return self.two(centered(twice(self.one(x)), 16))  # type: ignore[no-any-return]


def doubled() -> lc.Task:
    """A task around `Twice`."""
    from laconic.tasks.data import ArrayDataset

    data = ArrayDataset(torch.randn(32, 8).numpy(), torch.arange(32).numpy() % 3)
    return lc.Task(Twice(), data, data, name="doubled")

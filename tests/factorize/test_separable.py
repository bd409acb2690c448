"""Kernels as depthwise ones and 1×1: exact where they are that, nearer with data, and what stays is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.factorize.sites import large_share
from laconic.measure.counts import count
from laconic.search.lever import Surroundings
from laconic.search.levers import levers
from tests.factorize.test_low_rank import SHAPE, SPELLINGS, made, outputs, task

KERNELS = {
    name: given
    for name, given in SPELLINGS.items()
    if name not in ("linear", "linear over steps, no bias", "1×1") and "transposed" not in name
}


@pytest.mark.parametrize(("net", "shape"), KERNELS.values(), ids=KERNELS)
def test_a_separable_kernel_is_found_in_every_spelling(net: nn.Module, shape: tuple[int, ...]) -> None:
    weight: Tensor = net.weight  # type: ignore[assignment]
    with torch.no_grad():  # (O, I, …): one kernel for each input channel, and a number for each pair
        groups = net.groups
        kernels = torch.randn(groups, weight.shape[1], *weight.shape[2:])
        pairs = torch.randn(weight.shape[:2])
        weight.copy_(pairs.reshape(*pairs.shape, *[1] * (weight.dim() - 2)) * kernels.repeat_interleave(weight.shape[0] // groups, 0))
    program = lc.capture(net.eval(), torch.randn(shape))
    found, outcome = lc.separable(program, lc.Separable(saves=-10.0), task(net, shape))
    x = torch.randn(3, *shape[1:])
    torch.testing.assert_close(outputs(found, x), outputs(program, x), rtol=1e-4, atol=1e-4)
    (row,) = outcome.changed["layers"]
    assert row["error"] < 1e-5
    assert row["macs"] == [count(program).macs, count(found).macs]
    assert [tuple(p.shape[:2]) for n, p in found.named_parameters() if n == "0.weight"] == [(weight.shape[1] * groups, 1)]


def test_data_and_more_kernels_make_it_nearer_and_the_rest_is_told() -> None:
    program, given = made()
    errors = []
    for config in (lc.Separable(weighted=False), lc.Separable(), lc.Separable(multiplier=2)):
        found, outcome = lc.separable(program, config, given)
        x = torch.stack([given.valid[i][0] for i in range(24)])  # type: ignore[index]
        errors.append(float((outputs(found, x) - outputs(program, x)).square().mean()))
        assert {row["name"] for row in outcome.changed["layers"]} == {"stem", "body", "down"}
    assert errors[2] < errors[1] < errors[0]
    reasons = {one.name: one.reason for one in outcome.skipped}
    assert reasons["head"] == "it has no kernel"
    assert reasons["depthwise"] == "a group has one channel"
    with pytest.raises(BadInput, match="no layer can be rewritten: .*it would have 14 % of its multiply-adds left"):
        lc.separable(program, lc.Separable(saves=0.9), given)
    with pytest.raises(BadInput, match=r"no layer can be rewritten: .*its first kernels hold \d+ % of the output's mean square"):
        lc.separable(program, lc.Separable(energy=0.99), given)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"multiplier": 0}, "multiplier and examples"), ({"energy": 2.0}, "energy and saves"), ({"damping": 0.0}, "damping")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        lc.Separable(**options)  # type: ignore[arg-type]


def test_the_levers_look_at_how_large_layers_are() -> None:
    small, given = made()
    wide = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 36, 3)).eval()
    program = lc.capture(wide, torch.randn(SHAPE))
    assert 0 == large_share(small, kernels=False) < large_share(program, kernels=True) < 1
    for name, kind in (("low_rank", lc.LowRank), ("separable", lc.Separable)):
        row = levers()[name]
        assert "% of the multiply-adds are in" in str(row.when(Surroundings(small, given, lc.Budget(max_drop=0.5))))
        around = Surroundings(program, given, lc.Budget(max_drop=0.5))
        assert row.when(around) is None
        steps = row.steps(row.choices[0], around)
        assert [type(step) for step in steps] == [kind, lc.Fit]
        assert steps[1].plan.distill > 0
    assert row.cost == "training"
    low, linear = levers()["low_rank"], nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    assert low.unasked(around) is None
    assert [setting.unasked(around) is None for setting in low.choices] == [True, False, False]
    reason = low.unasked(Surroundings(lc.capture(linear, torch.randn(2, 64)), given, lc.Budget(max_drop=0.5)))
    assert "only 0 % of the multiply-adds are in large kernels" in str(reason)
    assert levers()["low_rank"].setting("0.4").options == {"macs": 0.4}  # type: ignore[union-attr]

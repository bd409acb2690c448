from __future__ import annotations

import torch
import torch.nn.functional as F

import laconic as lc
from laconic.run.runner import apply
from tests.train.test_engine import DATA, X, net, same


def test_the_step_trains_a_copy_as_fit_trains_the_program() -> None:
    program = lc.capture(net(), torch.from_numpy(X[:4]))
    before = {name: value.clone() for name, value in program.state_dict().items()}
    task = lc.Task(net(), DATA, DATA, loss=F.cross_entropy)
    step = lc.Fit(lc.FitPlan(epochs=2, lr=0.05, batch_size=16))
    found, (outcome,) = apply(program, [step], lc.Context(task=task, fit=lc.fit))
    assert all(torch.equal(program.state_dict()[name], value) for name, value in before.items())
    lc.fit(program, lc.FitPlan(epochs=2, lr=0.05, batch_size=16), train=DATA, loss=F.cross_entropy)
    assert same(found, program)
    assert outcome.step == "fit"
    assert [epoch["epoch"] for epoch in outcome.changed["epochs"]] == [1, 2]

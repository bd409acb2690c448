from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.folding import reestimate_batch_norm


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def pooled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 2))


def pooled3d() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 2), nn.AdaptiveAvgPool3d(1), nn.BatchNorm3d(4), nn.Flatten())


def series() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 5), nn.BatchNorm1d(4), nn.Flatten())


def untracked() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False, affine=False))


def instances() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 4), nn.InstanceNorm2d(4, track_running_stats=True))


def frozen_part() -> nn.Module:
    """Of two norms only the first sees several values."""
    return nn.Sequential(nn.Conv1d(2, 4, 2), nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(1), nn.BatchNorm1d(4), nn.Flatten())


ONE_VALUE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (dense, (6,)),
    "pooled": (pooled, (3, 8, 8)),
    "pooled3d": (pooled3d, (1, 4, 4, 4)),
    "series": (series, (2, 5)),
    "untracked": (untracked, (6,)),
    "instances": (instances, (3, 4, 4)),
    "frozen_part": (frozen_part, (2, 6)),
}


def verdict(model: nn.Module, x: Tensor) -> bool:
    """Whether a model refuses to train on these inputs."""
    try:
        model.train()(x)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ONE_VALUE)
def test_a_program_in_training_refuses_what_its_module_refuses(name: str, batch: int) -> None:
    make, shape = ONE_VALUE[name]
    net, x = make().eval(), torch.randn(batch, *shape)
    program = lc.capture(net, torch.randn(4, *shape))
    assert verdict(program, x) == verdict(net, x)
    assert all(bool(value.isfinite().all()) for value in program.state_dict().values())


def test_the_error_names_the_layer_and_the_way_out_and_evaluation_is_free() -> None:
    program = lc.capture(dense().eval(), torch.randn(4, 6)).train()
    with pytest.raises(lc.BadInput, match=r"batch-norm '1' .*shape \(1, 8\).* batch_size to 2"):
        program(torch.randn(1, 6))
    code = lc.capture(dense().eval(), torch.randn(4, 6)).graph_module.code
    assert program.eval()(torch.randn(1, 6)).isfinite().all()
    assert program.graph_module.code == code


def test_frozen_norms_take_one_value() -> None:
    program = lc.capture(dense().eval(), torch.randn(4, 6))
    program.freeze_batch_norm()
    assert program.train()(torch.randn(1, 6)).isfinite().all()


def test_copies_and_exports_in_training_mode_have_no_checks() -> None:
    program = lc.capture(dense().eval(), torch.randn(4, 6)).train()
    program.freeze_batch_norm()
    twin = copy.deepcopy(program)
    assert twin.eval().fingerprint() == program.fingerprint()
    assert "check_batch_norm" not in str(program.exported().graph)


def test_estimating_statistics_anew_refuses_one_value() -> None:
    program = lc.capture(dense().eval(), torch.randn(4, 6))
    with pytest.raises(lc.BadInput, match="batch-norm '1'"):
        reestimate_batch_norm(program, [(torch.randn(1, 6),)])
    assert reestimate_batch_norm(program, [(torch.randn(2, 6),)]) == 1

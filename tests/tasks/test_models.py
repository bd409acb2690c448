from __future__ import annotations

from typing import Any

import pytest
import torch

from laconic.core.errors import BadInput
from laconic.tasks.models import MODELS, WIDE, DataShape, build, models_for

IMAGE, LARGE = DataShape("image", (3, 32, 32), 10), DataShape("image", (3, 224, 224), 1000)
SERIES, TEXT = DataShape("series", (6, 40), 4), DataShape("text", (24,), 3, vocabulary=100)

# Parameters as published: He et al. 2016 (table 6, with the projection shortcuts that we use), Howard et al. 2017 (table 8), Sandler et al. 2018 (table 4),
# torchvision's ResNet-50, Han et al. 2015 (LeNet-300-100: 267 k, LeNet-5: 431 k).
PUBLISHED = {
    ("lenet300", DataShape("image", (1, 28, 28), 10)): 266_610,
    ("lenet5", DataShape("image", (1, 28, 28), 10)): 431_080,
    ("resnet20", IMAGE): 0.27e6,
    ("resnet56", IMAGE): 0.85e6,
    ("resnet50", LARGE): 25_557_032,
    ("mobilenet_v1", LARGE): 4.2e6,
    ("mobilenet_v2", LARGE): 3_504_872,
}


@pytest.mark.parametrize(("name", "shape"), PUBLISHED, ids=[name for name, _ in PUBLISHED])
def test_a_net_has_the_published_number_of_parameters(name: str, shape: DataShape) -> None:
    found, expected = sum(p.numel() for p in build(name, shape).parameters()), PUBLISHED[name, shape]
    assert found == expected if expected != round(expected, -4) else found == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [IMAGE, SERIES, TEXT], ids=lambda shape: shape.kind)
def test_a_net_fits_its_data(name: str, shape: DataShape) -> None:
    if name not in models_for(shape.kind):
        with pytest.raises(BadInput, match="takes another kind of data"):
            build(name, shape)
        return
    model = build(name, shape).eval()
    if shape.kind == "text":
        ids = torch.randint(1, 100, (2, 24))
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    else:
        found = model(torch.randn(2, *shape.shape))
    logits = found if isinstance(found, torch.Tensor) else found.logits
    assert logits.shape == (2, shape.classes)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_padding_left_out_of_the_mean(name: str) -> None:
    model: Any = build(name, TEXT).eval()
    ids, mask = torch.randint(1, 100, (1, 24)), (torch.arange(24) < 7)[None].long()
    steps = model.cell(model.embedding(ids))[0]
    assert torch.allclose(model(ids, mask), model.fc(steps[:, :7].mean(1)), atol=1e-6)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = build("resnet8", IMAGE, seed=1).state_dict()
    torch.manual_seed(6)
    again, other = (build("resnet8", IMAGE, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_an_unknown_net_is_told_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="'resnet2' is not a reference net. Did you mean 'resnet20'"):
        build("resnet2", IMAGE)


@pytest.mark.parametrize("name", WIDE)
def test_a_multiple_of_the_width(name: str) -> None:
    shape = DataShape("text", (16,), 3, 50) if name in ("lstm", "gru", "cnn1d") else DataShape("image", (1, 16, 16), 3)
    x = torch.randint(0, 50, (2, 16)) if shape.kind == "text" else torch.randn(2, 1, 16, 16)
    half, whole, double = (build(f"{name}{suffix}", shape) for suffix in ("x0.5", "", "x2"))
    assert all(net.eval()(x).shape == (2, 3) for net in (half, whole, double))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (half, whole, double)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert str(build(f"{name}x1", shape)) == str(whole)


@pytest.mark.parametrize("name", ["lenet5x0.5", "resnet8x0"])
def test_a_width_that_cannot_be(name: str) -> None:
    with pytest.raises(BadInput, match=r"resnet20, resnet56, resnet8 can be multiplied by a number above 0"):
        build(name, DataShape("image", (1, 16, 16), 3))

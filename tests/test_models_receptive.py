"""Receptive fields against hand calculation, published numbers, and the support of a unit's gradient."""

import pytest
import torch
from torch import nn

from byhand import by_hand, models
from byhand.errors import ShapeError, UnknownLayer
from byhand.models.receptive import receptive_fields


def fields(model, shape):
    return {field.name: field for field in receptive_fields(model, shape)}


def without_memory(name, **options):
    with torch.device("meta"):
        return models.build(name, **options)


def test_fields_of_lenet5_are_those_calculated_by_hand():
    found = fields(models.build("lenet5"), (1, 32, 32))
    # r grows by (k - 1) times the product of the strides before; without padding a field starts at pixel 0
    by_hand_of = {
        "features.0": (5, 1),
        "features.1": (5, 1),
        "features.2": (5 + 1, 2),
        "features.3": (6 + 4 * 2, 2),
        "features.5": (14 + 1 * 2, 4),
    }
    for name, (size, jump) in by_hand_of.items():
        field = found[name]
        assert (field.size, field.jump, field.start) == ((size, size), (jump, jump), ((size - 1) / 2,) * 2), name
    assert found["features.5"].of_unit(4, 0) == (16, 0, 31, 15)  # the last of 5 × 5 ends with the image
    assert found["classifier.1"].size is found["classifier.5"].of_unit(0, 0) is None


def test_fields_of_vgg11_are_those_calculated_by_hand():
    found = fields(without_memory("vgg11"), (3, 224, 224))
    sizes = [found[name].size[0] for name in found if found[name].kind in ("Conv2d", "MaxPool2d")]
    assert sizes == [3, 4, 8, 10, 18, 26, 30, 46, 62, 70, 102, 134, 150]
    last = found["features.20"]
    assert last.jump == (32, 32)
    assert last.start == (15.5, 15.5)  # each unit of a pooling by 32 lies over the middle of its 32 pixels


def test_fields_of_resnet20_are_those_calculated_by_hand():
    found = fields(models.build("resnet20"), (3, 32, 32))
    # 3; six convolutions of jump 1; one of jump 1 and five of jump 2; one of jump 2 and five of jump 4
    sizes = {"conv1": 3, "layer1.2.conv2": 15, "layer2.2.conv2": 37, "layer3.2.conv2": 81}
    assert {name: found[name].size[0] for name in sizes} == sizes
    assert [found[name].jump for name in sizes] == [(1, 1), (1, 1), (2, 2), (4, 4)]
    assert found["layer3.2.conv2"].of_unit(0, 0) == (-40, -40, 40, 40)
    assert found["avgpool"].size is None


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [("alexnet", "features.12", 195), ("vgg16", "features.30", 212), ("mobilenet_v1", "features.13.pointwise.2", 315)],
)
def test_fields_are_those_of_the_table_of_araujo_norris_and_sim(name, layer, size):
    assert fields(without_memory(name), (3, 224, 224))[layer].size == (size, size)


def support(model, layer, shape, row, column):
    """Top, left, bottom and right of the pixels with a gradient, of a network whose every path lets it through."""
    x = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *given: kept.append(given[2]))
    model(x)
    handle.remove()
    kept[-1][0, :, row, column].sum().backward()
    rows, columns = x.grad[0].abs().sum(0).nonzero(as_tuple=True)
    return int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max())


def open_everywhere(model):
    """The network with positive weights, so that no ReLU closes and no paths cancel."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.abs() + 1e-3)
    return model.double().eval()


class Branches(nn.Module):
    """Paths of different windows that meet, a shuffle of channels, a strided slice and a padding on two sides."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, (3, 5), stride=(1, 2), padding=(0, 2))
        self.wide = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.narrow = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d((2, 3), stride=(2, 1), padding=(0, 1))
        self.end = nn.Conv2d(4, 2, 2)
        self.shrink = nn.AdaptiveAvgPool2d((2, 7))

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([self.wide(x)[:, :2], self.narrow(x)[:, 2:]], 1)
        B, C, H, W = x.shape
        x = x.view(B, 2, C // 2, H, W).transpose(1, 2).reshape(B, C, H, W)
        x = self.relu(x)
        x = nn.functional.pad(self.pool(x), (1, 0, 1, 0)) + 1
        return self.shrink(self.end(x[:, :, 1::2]))


@pytest.mark.parametrize(
    ("model", "shape", "layers"),
    [
        (lambda: models.build("lenet5"), (1, 32, 32), ["features.0", "features.3", "features.5"]),
        (
            lambda: models.build("resnet20", in_channels=1),
            (1, 96, 96),
            ["layer1.1", "layer2.0.conv2", "layer3.2.conv2"],
        ),
        (
            lambda: models.build("densenet_cifar", in_channels=1),
            (1, 40, 40),
            ["features.denseblock1.denselayer3.conv2"],
        ),
        (Branches, (1, 23, 28), ["stem", "wide", "narrow", "pool", "end"]),
    ],
    ids=["lenet5", "resnet20", "densenet", "branches"],
)
def test_a_field_is_the_support_of_the_gradient(model, shape, layers):
    torch.manual_seed(0)
    model = open_everywhere(model())
    found = fields(model, shape)
    for layer in layers:
        inner = [name for name in found if name == layer or name.startswith(f"{layer}.")]
        field = found[inner[-1]]
        height, width = field.output_shape[1:]
        for row, column in ((0, 0), (height // 2, width // 2), (height - 1, 1)):
            top, left, bottom, right = field.of_unit(row, column)
            clipped = (max(top, 0), max(left, 0), min(bottom, shape[1] - 1), min(right, shape[2] - 1))
            assert support(model, layer, shape, row, column) == clipped, (layer, row, column)


def test_pooling_to_a_divisor_of_the_size_is_a_window_and_any_other_sees_the_whole_input():
    even = fields(nn.Sequential(nn.AdaptiveAvgPool2d((2, 4))), (1, 8, 8))["0"]
    assert (even.size, even.jump) == ((4, 2), (4, 2))
    for sides in (3, 1):
        assert fields(nn.Sequential(nn.AdaptiveAvgPool2d(sides)), (1, 8, 8))["0"].size is None
    mean = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))
    assert fields(mean, (1, 8, 8))["1"].size is None  # its statistics are over all places


def test_branches_of_different_strides_and_operations_without_a_window_are_errors():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 2, stride=2)
            self.last = nn.ReLU()

        def forward(self, x):
            return self.last(self.fine(x) + self.coarse(x).repeat_interleave(1, 0)[:, :, :2, :2])

    with pytest.raises((ShapeError, UnknownLayer), match=r"strides \[1, 2\]|known"):
        receptive_fields(Uneven(), (1, 4, 4))
    with pytest.raises(UnknownLayer, match="by_library"):
        receptive_fields(by_hand(models.build("lenet5")), (1, 32, 32))
    with pytest.raises(UnknownLayer, match="transposed"):
        receptive_fields(nn.Sequential(nn.ConvTranspose2d(1, 1, 2)), (1, 8, 8))
    with pytest.raises(ShapeError, match="does not fit"):
        receptive_fields(models.build("lenet5"), (1, 8, 8))
    with pytest.raises(ShapeError, match=r"\(784,\)"):
        receptive_fields(models.build("mlp"), (784,))


def test_the_network_is_left_as_it_was():
    model = models.build("resnet20").train()
    model.bn1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    receptive_fields(model, (3, 16, 16))
    assert model.training
    assert not model.bn1.training
    assert model.layer1[0].bn1.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())

"""Torch's network with some of its layers computed in another way, against torch's own."""

import copy
from functools import partial

import pytest
import torch
from against_torch import random
from torch import nn

from byhand import models, ops
from byhand.errors import SettingsError
from byhand.training.quicker import SmallDepthwiseConv2d, quicker
from byhand.training.settings import Settings
from byhand.training.state import State


def network(dtype=torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 5, padding=2, groups=6),
        nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=6, bias=False),
    )
    return nn.Sequential(*layers).to(dtype).train()


def by_hand_where_small(model: nn.Module) -> nn.Module:
    return quicker(model, depthwise_by_hand=True, channels_last=False)


@pytest.mark.parametrize("size", [5, 7, 24])
def test_the_same_outputs_gradients_and_statistics_as_torchs(size):
    library = network()
    other = by_hand_where_small(copy.deepcopy(library))
    x = random(4, 3, size, size)
    images = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [model(image) for model, image in zip((library, other), images, strict=True)]
    g = random(*outputs[0].shape, seed=1)
    for output in outputs:
        output.backward(g)
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(images[1].grad, images[0].grad)
    for ours, theirs in zip(other.parameters(), library.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(other[1].running_var, library[1].running_var)


def test_it_goes_by_hand_where_the_image_is_smaller_than_the_kernel(monkeypatch):
    calls = []
    by_hand = ops.conv2d
    monkeypatch.setattr(
        ops, "conv2d", lambda input, *args: calls.append(tuple(input.shape[2:])) or by_hand(input, *args)
    )
    other = by_hand_where_small(network())
    other(random(2, 3, 24, 24))
    assert calls == []
    other(random(2, 3, 7, 7))  # 4 × 4 pixels before the kernels of 5 × 5 and 3 × 3
    assert calls == [(4, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        by_hand_where_small(network(torch.float32))(random(2, 3, 7, 7).float())
    assert calls == [(4, 4)]


def test_parameters_and_buffers_are_shared_and_the_network_is_left_as_it_was():
    library = models.mobilenet_v3_small(num_classes=3, width_mult=0.25)
    other = by_hand_where_small(library)
    assert [id(p) for p in other.parameters()] == [id(p) for p in library.parameters()]
    assert [id(b) for b in other.buffers()] == [id(b) for b in library.buffers()]
    assert not any(isinstance(layer, SmallDepthwiseConv2d) for layer in library.modules())
    assert sum(isinstance(layer, SmallDepthwiseConv2d) for layer in other.modules()) == 11


def test_a_network_without_depthwise_layers_stays_itself():
    library = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(1, 4, 3), nn.Linear(2, 2))
    assert by_hand_where_small(library) is library
    turned = nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect")
    assert by_hand_where_small(turned) is turned


def test_channels_last_stay_last_there_and_back():
    layer, orders = nn.Conv2d(4, 4, 3, padding=1, groups=4).double(), []
    x = random(2, 4, 2, 2).contiguous(memory_format=torch.channels_last).requires_grad_()
    seen = 1 * x
    seen.register_hook(lambda grad: orders.append(grad.stride()))
    y = by_hand_where_small(layer)(seen)
    y.square().sum().backward()
    torch.testing.assert_close(y, layer(x))
    assert y.stride() == x.stride()
    assert orders == [x.stride()]


def test_a_training_of_the_librarys_hand_takes_it_on_a_cpu_unless_the_hand_is_asked_for():
    planned = Settings(epochs=1, batch_size=2, lr=0.1, by_hand=False, depthwise_by_hand=True)

    def layers(settings, device="cpu"):
        build = partial(models.mobilenet_v2, num_classes=2, width_mult=0.1)
        model = State.new(build, settings, torch.device(device)).model
        return sum(isinstance(layer, SmallDepthwiseConv2d) for layer in model.modules())

    assert layers(planned) == 17
    assert layers(planned.replace(by_hand=False)) == 0
    assert layers(planned.replace(by_hand=True)) == 0
    assert layers(planned, "meta") == 0
    with pytest.raises(SettingsError, match="depthwise_by_hand=True says that all else is torch's; give by_hand=False"):
        Settings(epochs=1, batch_size=2, lr=0.1, depthwise_by_hand=True)


def test_behind_a_global_pooling_gradients_have_channels_last_and_are_torchs():
    torch.manual_seed(0)
    library = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    library.double().to(memory_format=torch.channels_last)
    other = quicker(library, depthwise_by_hand=False, channels_last=True)
    assert quicker(library, depthwise_by_hand=True, channels_last=False) is library
    x, found, orders = random(3, 2, 6, 5).contiguous(memory_format=torch.channels_last), [], []
    for model in (library, other):
        hook = model[1].register_full_backward_hook(lambda layer, given, grads: orders.append(grads[0].stride()))
        library.zero_grad()
        model(x).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in library.parameters()])
        hook.remove()
    torch.testing.assert_close(found[1], found[0])
    assert orders == [(48, 12, 3, 1), (48, 1, 12, 4)]

"""Layers that go through one operation: equal to torch's one after the other, in every case where they may."""

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from byhand.nn import Sequential, by_hand, by_library
from byhand.ops import rows, stage

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)


@drawn
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pool=st.integers(2, 3),
    places=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.sampled_from([1, 3, 9]),
    outputs=st.sampled_from([1, 4, 20]),
    block=st.sampled_from([1, 200, 1 << 19]),
    dtype=dtypes,
    layout=layouts,
)
def test_convolution_relu_and_pooling_agree_with_torchs_three(
    kernel, pool, places, channels, outputs, block, dtype, layout
):
    height, width = (pool * n + k - 1 for n, k in zip(places, kernel, strict=True))
    x = laid_out(random(3, channels, height, width, dtype=dtype), layout)
    weight, bias = random(outputs, channels, *kernel, dtype=dtype, seed=1), random(outputs, dtype=dtype, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "BLOCK", block)  # one block, or many
        assert_agree(
            lambda x, weight, bias: stage.conv_relu_avg_pool(x, weight, bias, pool),
            lambda x, weight, bias: F.avg_pool2d(F.relu(F.conv2d(x, weight, bias)), pool),
            x,
            weight,
            bias,
        )


@drawn
@given(batch=st.integers(0, 4), num_in=st.integers(1, 4), num_out=st.integers(1, 4), dtype=dtypes, layout=layouts)
def test_linear_and_relu_agree_with_torchs_two(batch, num_in, num_out, dtype, layout):
    x = laid_out(random(batch, num_in, dtype=dtype), layout)
    weight, bias = random(num_out, num_in, dtype=dtype, seed=1), random(num_out, dtype=dtype, seed=2)
    assert_agree(stage.linear_relu, lambda *tensors: F.relu(F.linear(*tensors)), x, weight, bias)


def test_an_infinite_gradient_stops_at_a_closed_gate_as_in_torch():
    x, weight, bias = random(2, 3).requires_grad_(), random(4, 3, seed=1), random(4, seed=2)
    expected = F.relu(F.linear(x, weight, bias))
    grad = torch.where(expected == 0, torch.inf, 1.0)
    assert (grad == torch.inf).any()
    (wanted,) = torch.autograd.grad(expected, x, grad)
    (got,) = torch.autograd.grad(stage.linear_relu(x, weight, bias), x, grad)
    torch.testing.assert_close(got, wanted)


def stages() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 8), nn.ReLU()
    )


def nodes(model, x) -> list[str]:
    node, names = model(x).grad_fn, []
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return names


def test_a_sequence_by_hand_joins_what_has_an_operation_in_common():
    model, x = by_hand(stages()), random(16, 1, 8, 8, dtype=torch.float32)
    assert type(model) is Sequential
    assert nodes(model, x)[:3] == ["linear_reluBackward", "flattenBackward", "conv_relu_avg_poolBackward"]
    assert type(by_library(model)) is nn.Sequential


@pytest.mark.parametrize("place", range(6))
def test_a_layer_with_a_hook_runs_alone_and_the_hook_sees_what_torchs_sees(place):
    library, x = stages(), random(16, 1, 8, 8, dtype=torch.float32)
    hand, seen = by_hand(library), []
    for model in (hand, library):
        model[place].register_forward_hook(lambda layer, inputs, output: seen.extend([*inputs, output]))
        model(x)
    assert len(seen) == 4
    for mine, reference in zip(seen[:2], seen[2:], strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2)],
        [nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.AvgPool2d(2)],
        [nn.Conv2d(1, 4, 3, dilation=2), nn.ReLU(), nn.AvgPool2d(2)],
        [nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2)],
        [nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.AvgPool2d(2)],
        [nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.AvgPool2d((2, 1))],
        [nn.Conv2d(1, 4, 4, padding="same"), nn.ReLU(), nn.AvgPool2d(2)],
        [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, stride=1)],
        [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, padding=1)],
        [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, divisor_override=3)],
        [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)],
        [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
        [nn.Flatten(), nn.Linear(64, 3, bias=False), nn.ReLU()],
        [nn.Linear(8, 3), nn.ReLU()],
        [nn.ReLU(), nn.Linear(8, 3), nn.LeakyReLU(), nn.ReLU()],
    ],
)
def test_a_sequence_by_hand_agrees_with_torchs_whatever_its_layers(layers):
    library, x = nn.Sequential(*layers), random(16, 1, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(by_hand(library)(x), library(x))


def test_what_does_not_fit_is_refused_as_by_the_layers_alone():
    with pytest.raises(ValueError, match="takes 64 features"):
        by_hand(stages()[4:])(random(16, 63, dtype=torch.float32))
    with pytest.raises(ValueError, match="channels"):
        by_hand(stages())(random(16, 2, 8, 8, dtype=torch.float32))


def test_blocks_cover_all_rows_once():
    plan = rows.plan(torch.empty(2, 1, 14, 12), torch.empty(4, 1, 3, 3), (1, 1), (1, 1))
    for block in (1, 100, 300, 1 << 19):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, "BLOCK", block)
            blocks = stage._blocks(plan, 3, 2)
        assert [row for first, last in blocks for row in range(first, last)] == list(range(12))
        assert all(first % 3 == 0 for first, _ in blocks)

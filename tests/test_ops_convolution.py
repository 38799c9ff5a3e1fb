"""Cross-correlation and padding by hand, against torch."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, assert_within_precision, drawn, laid_out, random
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from byhand import by_hand, ops
from byhand.errors import SettingsError, ShapeError
from byhand.nn import functional
from byhand.ops import columns, rows, shifts, strips
from byhand.ops.layout import batch_innermost, sum_by_channel

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)


def conv(function, **settings):
    return lambda *tensors: function(*tensors, **settings)


@st.composite
def convolutions(draw):
    """Shapes and settings of a convolution whose kernel fits, at least once along each axis."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    C, num_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride, padding, dilation, image = [], [], [], [], []
    for _ in range(2):
        k, d, p = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
        least = max(1, d * (k - 1) + 1 - 2 * p)  # the smallest size gives an output of one pixel
        image.append(least + draw(st.integers(0, 4)))
        kernel.append(k)
        stride.append(draw(st.integers(1, 4)))
        padding.append(p)
        dilation.append(d)
    batch = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    return {
        "input": (*batch, C, *image),
        "weight": (num_out, C // groups, *kernel),
        "settings": {
            "stride": tuple(stride),
            "padding": tuple(padding),
            "dilation": tuple(dilation),
            "groups": groups,
        },
    }


@drawn
@given(case=convolutions(), with_bias=st.booleans(), dtype=dtypes, layout=layouts, weight_layout=layouts)
def test_conv2d_matches_torch_over_strides_paddings_dilations_and_groups(case, with_bias, dtype, layout, weight_layout):
    x = laid_out(random(*case["input"], dtype=dtype), layout)
    weight = laid_out(random(*case["weight"], dtype=dtype, seed=1), weight_layout)
    bias = (random(case["weight"][0], dtype=dtype, seed=2),) if with_bias else ()
    assert_agree(conv(ops.conv2d, **case["settings"]), conv(F.conv2d, **case["settings"]), x, weight, *bias)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says that it copies the image
@drawn
@given(case=convolutions(), padding=st.sampled_from(["same", "valid"]), layout=layouts)
def test_conv2d_with_padding_by_name_matches_torch(case, padding, layout):
    settings = {**case["settings"], "padding": padding}
    if padding == "same":
        settings["stride"] = 1
    else:
        covered = [d * (k - 1) + 1 for d, k in zip(settings["dilation"], case["weight"][2:], strict=True)]
        assume(all(c <= n for c, n in zip(covered, case["input"][-2:], strict=True)))
    x, weight = laid_out(random(*case["input"]), layout), random(*case["weight"], seed=1)
    assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), x, weight)


def test_an_even_kernel_with_padding_same_looks_further_to_the_right_as_in_torch():
    assert_agree(
        conv(ops.conv2d, padding="same"), conv(F.conv2d, padding="same"), random(1, 1, 5, 5), random(1, 1, 4, 2)
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 1)}, {"groups": 2, "stride": (1, 2)}],
    ids=str,
)
def test_conv2d_gradients_match_finite_differences(settings):
    weight = random(4, 4 // settings.get("groups", 1), 2, 3, seed=1)
    inputs = random(2, 4, 5, 6), weight, random(4, seed=2)
    assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), *inputs, finite_differences=True)


def test_conv2d_in_channels_last_matches_torch():
    x = random(2, 3, 6, 5).to(memory_format=torch.channels_last)
    weight = random(4, 3, 3, 3, seed=1).to(memory_format=torch.channels_last)
    assert_agree(conv(ops.conv2d, padding=1), conv(F.conv2d, padding=1), x, weight)


def test_conv2d_of_an_image_repeated_without_copies_matches_torch():
    assert_agree(ops.conv2d, F.conv2d, random(1, 1, 5, 5).expand(3, 2, 5, 5), random(4, 2, 3, 3, seed=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conv2d_in_half_precision_is_right_within_its_roundings(dtype):
    inputs = random(2, 3, 6, 6, dtype=dtype), random(4, 3, 3, 3, dtype=dtype, seed=1), random(4, dtype=dtype, seed=2)
    assert_within_precision(ops.conv2d, F.conv2d, *inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gradient_of_the_weight_in_half_precision_loses_nothing_from_block_to_block(dtype, monkeypatch):
    monkeypatch.setattr(columns, "KEPT", 0)
    monkeypatch.setattr(columns, "BLOCK", 1)
    weight = torch.ones(1, 1, 1, 2, dtype=dtype, requires_grad=True)
    columns.conv2d(torch.ones(4000, 1, 1, 3, dtype=dtype), weight, None, (1, 1), (0, 0, 0, 0), (1, 1)).sum().backward()
    assert weight.grad.tolist() == [[[[8000, 8000]]]]  # two at a time they would not get beyond 4096 or 512


def test_only_the_wanted_gradients_of_conv2d_are_computed():
    x, weight = random(1, 1, 4, 4), random(1, 1, 2, 2, seed=1).requires_grad_()
    ops.conv2d(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, F.conv2d(x, torch.ones(1, 1, 3, 3, dtype=x.dtype)))


def test_the_output_of_conv2d_may_be_changed_in_place_as_with_torch():
    def added(function, batch):
        def f(x, weight):
            y = function(x[0] if batch == () else x, weight)
            y += 1
            return y * y

        return f

    for batch in ((), (2,)):
        assert_agree(added(ops.conv2d, batch), added(F.conv2d, batch), random(2, 3, 5, 5), random(4, 3, 3, 3, seed=1))


@drawn
@given(B=st.integers(1, 3), C=st.integers(1, 5), num_out=st.integers(1, 5), H=st.integers(1, 4), W=st.integers(1, 4))
def test_a_1x1_convolution_is_a_linear_layer_at_each_pixel(B, C, num_out, H, W):
    weight, bias = random(num_out, C, seed=1), random(num_out, seed=2)

    def per_pixel(x, weight, bias):
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)

    assert_agree(
        lambda x, weight, bias: ops.conv2d(x, weight[:, :, None, None], bias),
        per_pixel,
        random(B, C, H, W),
        weight,
        bias,
    )


def test_conv2d_takes_numbers_of_numpy_and_lists():
    x, weight = random(1, 1, 6, 6), random(1, 1, 3, 3, seed=1)
    expected = F.conv2d(x, weight, stride=2, padding=1)
    assert torch.allclose(ops.conv2d(x, weight, stride=np.int64(2), padding=[1, 1]), expected)
    assert torch.allclose(ops.conv2d(x, weight, stride=(2,), padding=(1,)), expected)


def test_conv2d_refuses_what_torch_refuses():
    x, weight = torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3)
    cases = [
        (ShapeError, {"weight": torch.zeros(2, 3, 5, 5)}, ["(5, 5)", 4]),  # larger than the image
        (ShapeError, {"dilation": 2}, ["dilation (2, 2)", 5, 4]),
        (ShapeError, {"input": torch.zeros(1, 2, 4, 4)}, [(1, 2, 4, 4), 2, 3]),  # another number of channels
        (ShapeError, {"input": torch.zeros(4, 4)}, [(4, 4)]),
        (ShapeError, {"weight": torch.zeros(3, 3)}, [(3, 3)]),
        (ShapeError, {"groups": 2}, ["groups=2", "in_channels=3"]),
        (ShapeError, {"groups": 0}, ["groups=0"]),
        (ShapeError, {"bias": torch.zeros(3)}, [(3,)]),
        (ShapeError, {"input": torch.zeros(1, 3, 0, 4)}, [(1, 3, 0, 4)]),
        (SettingsError, {"stride": 0}, ["stride=0"]),
        (SettingsError, {"stride": (1, 2, 3)}, ["stride=(1, 2, 3)"]),
        (SettingsError, {"padding": -1}, ["padding=-1"]),
        (SettingsError, {"padding": 1.5}, ["padding=1.5"]),
        (SettingsError, {"padding": "full"}, ["full"]),
        (SettingsError, {"padding": "same", "stride": 2}, ["same", (2, 2)]),
        (SettingsError, {"dilation": 0}, ["dilation=0"]),
    ]
    for kind, change, values in cases:
        arguments = {"input": x, "weight": weight, **change}
        assert_refused(kind, lambda a=arguments: ops.conv2d(**a), *values)
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            F.conv2d(**arguments)


def test_conv2d_has_the_names_and_defaults_of_torch_layers():
    mine = {name: p.default for name, p in inspect.signature(ops.conv2d).parameters.items()}
    assert mine == {
        "input": inspect.Parameter.empty,
        "weight": inspect.Parameter.empty,
        "bias": None,
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
    }


# One channel, as the chapter writes it


def test_corr2d_gives_the_chapters_own_example():
    X = torch.tensor([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]])
    K = torch.tensor([[0.0, 1], [2, 3]])
    assert ops.corr2d(X, K).tolist() == [[19, 25], [37, 43]]


def test_corr2d_finds_the_chapters_edges():
    X = torch.ones(6, 8)
    X[:, 2:6] = 0
    assert ops.corr2d(X, torch.tensor([[1.0, -1.0]])).tolist() == [[0, 1, 0, 0, 0, -1, 0]] * 6
    assert not ops.corr2d(X.T, torch.tensor([[1.0, -1.0]])).any()


@drawn
@given(h=st.integers(1, 3), w=st.integers(1, 3), more=st.integers(0, 3), dtype=dtypes, layout=layouts)
def test_corr2d_is_conv2d_of_one_channel(h, w, more, dtype, layout):
    X, K = laid_out(random(h + more, w + 2, dtype=dtype), layout), random(h, w, dtype=dtype, seed=1)

    def one_channel(X, K):
        return F.conv2d(X[None, None], K[None, None])[0, 0]

    assert_agree(ops.corr2d, one_channel, X, K, finite_differences=dtype is torch.float64)


def test_corr2d_refuses_a_kernel_larger_than_the_image_and_more_than_two_axes():
    assert_refused(ShapeError, lambda: ops.corr2d(torch.zeros(2, 5), torch.zeros(3, 1)), (3, 1), (2, 5))
    assert_refused(ShapeError, lambda: ops.corr2d(torch.zeros(1, 2, 5), torch.zeros(3, 1)), (1, 2, 5))


@drawn
@given(n=st.integers(1, 30), k=st.integers(1, 6), s=st.integers(1, 5), per_side=st.integers(0, 4), d=st.integers(1, 3))
def test_conv_output_size_is_the_size_that_conv2d_gives(n, k, s, per_side, d):
    try:
        y = F.conv2d(torch.zeros(1, 1, n, n), torch.zeros(1, 1, k, k), stride=s, padding=per_side, dilation=d)
    except RuntimeError:
        with pytest.raises(ShapeError):
            ops.conv_output_size(n, k, s, per_side=per_side, dilation=d)
        return
    assert ops.conv_output_size(n, k, s, per_side=per_side, dilation=d) == y.shape[2]
    assert ops.conv_output_size(n, k, s, 2 * per_side, dilation=d) == y.shape[2]  # the source's total padding


def test_conv_output_size_takes_an_odd_total_padding_and_the_sources_example():
    assert ops.conv_output_size(8, 3, 1, 2) == 8  # D2L 6.3.1: padding of one row on each side keeps 8 × 8
    assert ops.conv_output_size(8, 3, 2, 2) == 4  # D2L 6.3.2: and stride 2 halves it
    padded = F.pad(torch.zeros(1, 1, 7, 7), (1, 2, 1, 2))
    assert ops.conv_output_size(7, 4, 2, 3) == F.conv2d(padded, torch.zeros(1, 1, 4, 4), stride=2).shape[2]


def test_conv_output_size_refuses_what_no_convolution_can_have():
    assert_refused(ShapeError, lambda: ops.conv_output_size(3, 5), 5, 3)
    assert_refused(SettingsError, lambda: ops.conv_output_size(3, 2, 1, 2, per_side=1), "p=2", "per_side=1")
    for name, arguments in {"n=0": (0, 1), "k=0": (3, 0), "s=0": (3, 1, 0), "p=-1": (3, 1, 1, -1)}.items():
        assert_refused(SettingsError, lambda a=arguments: ops.conv_output_size(*a), name)
    assert_refused(SettingsError, lambda: ops.conv_output_size(3, 1, per_side=-1), "p=-2")


# Padding

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


@pytest.mark.parametrize("mode", MODES)
@drawn
@given(
    sides=st.tuples(*[st.integers(0, 3)] * 4),
    shape=st.tuples(*[st.integers(4, 6)] * 2),
    leading=st.sampled_from([(2,), (2, 3), (0, 2)]),
    dtype=dtypes,
    layout=layouts,
)
def test_padding_matches_torch_in_every_mode(mode, sides, shape, leading, dtype, layout):
    x = laid_out(random(*leading, *shape, dtype=dtype), layout)
    assert_agree(lambda x: ops.pad2d(x, *sides, mode=mode), lambda x: F.pad(x, sides, MODES[mode]), x)
    assert_agree(lambda x: functional.pad(x, sides, MODES[mode]), lambda x: F.pad(x, sides, MODES[mode]), x)


@pytest.mark.parametrize("mode", MODES)
def test_padding_gradients_match_finite_differences(mode):
    assert_agree(
        lambda x: ops.pad2d(x, 1, 2, 2, 0, mode=mode),
        lambda x: F.pad(x, (1, 2, 2, 0), MODES[mode]),
        random(2, 3, 4),
        finite_differences=True,
    )


def test_padding_takes_the_largest_border_that_torch_takes_and_no_more():
    x = random(1, 1, 4, 4)
    for mode, largest in {"reflect": 3, "circular": 4, "replicate": 9}.items():
        assert_agree(
            lambda x, m=mode, n=largest: ops.pad2d(x, n, n, n, n, m),
            lambda x, m=mode, n=largest: F.pad(x, (n, n, n, n), m),
            x,
        )
    assert_refused(ShapeError, lambda: ops.pad2d(x, 4, 0, 0, 0, "reflect"), 4)
    assert_refused(ShapeError, lambda: ops.pad2d(x, 0, 0, 0, 5, "circular"), 5, 4)
    assert_refused(SettingsError, lambda: ops.pad2d(x, 1, 1, 1, 1, "mirror"), "mirror")


def test_the_functional_pad_refuses_what_has_no_twin():
    x = torch.zeros(2, 3)
    for pad, value in [((1, 1, 1), None), ((1, -1), None), ((1, 1), 2.0), ((1,) * 6, None)]:
        assert_refused(SettingsError, lambda p=pad, v=value: functional.pad(x, p, value=v), pad, value)
    assert_refused(SettingsError, lambda: functional.pad(torch.zeros(3), (1, 1)), (1, 1), (3,))


@drawn
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    places=st.tuples(st.integers(1, 5), st.integers(1, 8)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    rest=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    channels=st.sampled_from([1, 2, 3, 9]),
    outputs=st.sampled_from([1, 2, 4, 20]),
    bias=st.booleans(),
    dtype=dtypes,
    layout=layouts,
)
def test_convolution_by_rows_agrees_with_torch(
    kernel, places, stride, dilation, rest, channels, outputs, bias, dtype, layout
):
    height, width = (
        d * (k - 1) + 1 + s * (n - 1) + more
        for k, n, s, d, more in zip(kernel, places, stride, dilation, rest, strict=True)
    )
    x = laid_out(random(3, channels, height, width, dtype=dtype), layout)
    weight = random(outputs, channels, *kernel, dtype=dtype, seed=1)
    b = random(outputs, dtype=dtype, seed=2) if bias else None
    assert_agree(
        lambda x, weight, b: rows.conv2d(x, weight, b, stride, dilation),
        lambda x, weight, b: F.conv2d(x, weight, b, stride, dilation=dilation),
        x,
        weight,
        b,
    )


def by(way, x, weight, bias, stride, sides, dilation):
    """The convolution that way, whatever its shape; shifts know no stride."""
    return way.conv2d(x, weight, bias, *([stride] if way is not shifts else []), sides, dilation)


@pytest.mark.parametrize("way", [columns, strips, shifts])
@drawn
@given(
    block=st.sampled_from([1, 400, 1 << 20]),  # one row or image at a time, a few, or all
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    places=st.tuples(st.integers(1, 5), st.integers(1, 8)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    rest=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    padding=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    channels=st.sampled_from([1, 3, 9]),
    outputs=st.sampled_from([1, 4, 20]),
    bias=st.booleans(),
    dtype=dtypes,
    layout=layouts,
)
def test_convolution_by_columns_strips_and_shifts_agrees_with_torch(
    way, block, kernel, places, stride, dilation, rest, padding, channels, outputs, bias, dtype, layout
):
    stride = (1, 1) if way is shifts else stride
    height, width = (
        max(1, d * (k - 1) + 1 + s * (n - 1) + more - 2 * p)
        for k, n, s, d, more, p in zip(kernel, places, stride, dilation, rest, padding, strict=True)
    )
    x = laid_out(random(3, channels, height, width, dtype=dtype), layout)
    weight = random(outputs, channels, *kernel, dtype=dtype, seed=1)
    b = random(outputs, dtype=dtype, seed=2) if bias else None
    sides = (padding[1], padding[1], padding[0], padding[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way, "BLOCK", block)
        patch.setattr(columns, "KEPT", block)
        assert_agree(
            lambda x, weight, b: by(way, x, weight, b, stride, sides, dilation),
            lambda x, weight, b: F.conv2d(x, weight, b, stride, padding, dilation),
            x,
            weight,
            b,
        )


@pytest.mark.parametrize("way", [columns, strips, shifts])
@pytest.mark.parametrize("sides", [(1, 0, 2, 0), (0, 3, 0, 1)])
def test_columns_strips_and_shifts_take_other_zeros_on_each_side(way, sides):
    x, weight = random(3, 4, 6, 7), random(5, 4, 3, 3, seed=1)
    assert_agree(
        lambda x, weight: by(way, x, weight, None, (1, 1), sides, (1, 1)),
        lambda x, weight: F.conv2d(F.pad(x, sides), weight),
        x,
        weight,
    )


@pytest.mark.parametrize(
    ("channels", "outputs", "width", "stride", "tile", "depth"),
    [
        (1, 6, 32, 1, 4, 5),  # LeNet's first layer: one kernel row is too short, one output too thin
        (6, 16, 14, 1, 2, 1),  # its second
        (6, 16, 15, 1, 1, 1),  # 11 outputs side by side are not to be divided
        (64, 64, 32, 1, 1, 1),
        (6, 16, 14, 2, 1, 1),
    ],
)
def test_rows_are_cut_to_the_shapes(channels, outputs, width, stride, tile, depth):
    x = torch.empty(1, channels, width, width)
    plan = rows.plan(x, torch.empty(outputs, channels, 5, 5), (stride, stride), (1, 1))
    assert (plan.tile, plan.depth) == (tile, depth)


@pytest.mark.parametrize("channels", [2, 16])
def test_no_image_gives_no_output_and_no_gradient(channels):
    x, weight = random(0, channels, 9, 9).requires_grad_(), random(channels, channels, 3, 3).requires_grad_()
    y = ops.conv2d(x, weight, None, 2, 1)
    y.sum().backward()
    assert (y.shape, x.grad.shape) == ((0, channels, 5, 5), x.shape)
    assert not weight.grad.any()


def test_each_convolution_goes_the_way_of_its_shape_and_layout():
    def way(batch=16, channels=2, outputs=4, groups=1, kernel=3, size=8, stride=1, layout=lambda x: x):
        x = layout(random(batch, channels, size, size)).requires_grad_()
        y = ops.conv2d(x, random(outputs, channels // groups, kernel, kernel), stride=stride, groups=groups)
        return y.grad_fn.name().removesuffix("Backward")

    assert way() == way(outputs=64) == way(batch=64) == "conv2d"
    assert way(layout=batch_innermost) == way(channels=5) == "conv2d_rows"
    assert way(channels=11) == "conv2d_strips"
    assert way(channels=64, kernel=1) == "conv2d_rows"
    assert way(batch=8) == way(channels=4, groups=2) == way(channels=64, batch=8) == "conv2d"
    assert way(channels=12, outputs=12, size=10) == way(channels=12, outputs=12, batch=1) == "conv2d"
    assert way(channels=12, outputs=12, size=20) == way(channels=12, outputs=12, batch=1, size=80) == "conv2d_shifts"
    assert way(channels=64, outputs=64, size=7, batch=32) == way(64, 64, 64, size=9, stride=2) == "conv2d_strips"
    assert way(64, 64, 64, size=10, stride=2) == "conv2d"
    assert way(channels=12, outputs=12, size=10, layout=batch_innermost) == "conv2d_strips"


@drawn
@given(
    shape=st.one_of(
        st.tuples(*[st.integers(1, 4)] * 4),
        st.tuples(st.integers(1, 12), st.sampled_from([(8, 8, 8), (512, 1, 1), (1, 16, 32)])).map(
            lambda s: (s[0], *s[1])
        ),
    ),
    layout=layouts,
)
def test_the_batch_innermost_keeps_the_images_and_only_moves_them_in_memory(shape, layout):
    x = laid_out(random(*shape), layout)
    moved = batch_innermost(x)
    batch_innermost(x + 1)  # what the first call returned is its own
    assert torch.equal(moved, x)
    assert moved.permute(2, 3, 1, 0).is_contiguous()
    assert batch_innermost(moved) is moved
    batch_innermost(x.requires_grad_()).sum().backward()  # an ordinary function, where gradients are recorded
    assert bool((x.grad == 1).all())


@pytest.mark.parametrize(
    "shape", [(16, 3, 5, 4), (4, 3, 5, 4), (1, 2, 3, 3), (3, 1, 1, 1), (0, 2, 3, 3), (4, 2, 0, 3)], ids=str
)
def test_the_sum_of_a_channel_is_the_same_whatever_the_layout(shape):
    x = random(*shape)
    for images in (x, batch_innermost(x), x.to(memory_format=torch.channels_last), x[..., ::2]):
        torch.testing.assert_close(sum_by_channel(images), images.transpose(0, 1).flatten(1).sum(1))
    half = torch.full((3, 2, 100, 100), 8.0, dtype=torch.float16)  # 80,000 an image, more than float16 holds
    half[1:] = -4
    assert sum_by_channel(batch_innermost(half)).tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore")  # jit is no longer recommended, and numbers of Python are constants in a trace
@pytest.mark.parametrize(
    ("size", "settings"),
    [((4, 16, 30, 30), {}), ((4, 16, 30, 30), {"stride": 2}), ((2, 16, 20, 20), {"groups": 16}), ((20, 3, 9, 9), {})],
    ids=str,
)
def test_every_way_can_be_traced(size, settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Conv2d(size[1], 16, 3, **settings)
    x = random(*size).float()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(by_hand(nn.Sequential(layer)), x)(x), layer(x))

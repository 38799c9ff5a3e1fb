"""Depthwise convolution by hand, against torch."""

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_within_precision, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from byhand import by_hand, ops, prove
from byhand.ops import depthwise, depthwise_matrix, depthwise_planes
from byhand.ops.layout import batch_innermost

dtypes = st.sampled_from([torch.float32, torch.float64])


def conv(function, **settings):
    return lambda *tensors: function(*tensors, **settings)


@st.composite
def depthwise_convolutions(draw):
    """Shapes and settings of a convolution whose kernel fits, at least once along each axis."""
    channels, multiplier = draw(st.integers(2, 4)), draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel, stride, padding, dilation, image = [], [], [], [], []
    for _ in range(2):
        k, d, p = draw(st.integers(1, 5)), draw(st.sampled_from([1, 1, 2, 3, 10])), draw(st.integers(0, 5))
        least = max(1, d * (k - 1) + 1 - 2 * p)
        image.append(least + draw(st.integers(0, 5)))
        kernel.append(k)
        stride.append(draw(st.integers(1, 4)))
        padding.append(p)
        dilation.append(d)
    batch = draw(st.sampled_from([(), (0,), (1,), (3,), (16,), (19,)]))
    return {
        "input": (*batch, channels, *image),
        "weight": (channels * multiplier, 1, *kernel),
        "settings": {
            "stride": tuple(stride),
            "padding": tuple(padding),
            "dilation": tuple(dilation),
            "groups": channels,
        },
    }


WAYS = ["one product", "planes"]  # for images that lie one after the other


def go(way, patch):
    """Have those that can go either way go this one."""
    patch.setattr(depthwise_matrix, "LARGEST", 10**9 if way == "one product" else -1)
    patch.setattr(depthwise_matrix, "ENTRIES", 10**9)


@drawn
@given(
    case=depthwise_convolutions(),
    with_bias=st.booleans(),
    dtype=dtypes,
    layout=st.sampled_from([*LAYOUTS, "batch innermost"]),
    weight_layout=st.sampled_from(LAYOUTS),
    way=st.sampled_from(WAYS),
    large=st.sampled_from([1, 144]),
)
def test_it_matches_torch_over_multipliers_strides_paddings_and_dilations(
    case, with_bias, dtype, layout, weight_layout, way, large
):
    x = random(*case["input"], dtype=dtype)
    if layout != "batch innermost":
        x = laid_out(x, layout)
    elif x.ndim == 4:
        x = batch_innermost(x)
    weight = laid_out(random(*case["weight"], dtype=dtype, seed=1), weight_layout)
    bias = (random(case["weight"][0], dtype=dtype, seed=2),) if with_bias else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "BLOCK", 300)  # a row or two, so that small images have several blocks
        patch.setattr(depthwise_planes, "BLOCK", 30)  # a plane or two
        patch.setattr(depthwise_planes, "LARGE", large)
        go(way, patch)
        assert_agree(conv(ops.conv2d, **case["settings"]), conv(F.conv2d, **case["settings"]), x, weight, *bias)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says that it copies the image
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [2, 16])
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 1)}, {"padding": "same"}, {"padding": 4}],
    ids=str,
)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_gradients_match_finite_differences(batch, settings, multiplier, way, monkeypatch):
    go(way, monkeypatch)
    inputs = random(batch, 2, 4, 3), random(2 * multiplier, 1, 2, 3, seed=1), random(2 * multiplier, seed=2)
    settings = {**settings, "groups": 2}
    assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), *inputs, finite_differences=True)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [14, 7])
@pytest.mark.parametrize("batch", [4, 32, 64])
def test_the_shapes_of_the_mobile_networks_match_torch_in_float32(kernel, stride, size, batch):
    settings = {"stride": stride, "padding": kernel // 2, "groups": 48}
    x, weight = random(batch, 48, size, size, dtype=torch.float32), random(48, 1, kernel, kernel, dtype=torch.float32)
    # the gradient of a weight is a sum of up to 12,544 products
    assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), x, weight, tolerance=3e-4)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says that it copies the image
@pytest.mark.parametrize("kernel", [(4, 2), (2, 3)])
def test_an_even_kernel_with_padding_same_looks_further_to_the_right_as_in_torch(kernel):
    settings = {"padding": "same", "groups": 3, "dilation": (1, 2)}
    x, weight = random(2, 3, 6, 7), random(3, 1, *kernel, seed=1)
    assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), x, weight)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padding", ["same", (0, 2), (4, 2)], ids=str)
@pytest.mark.parametrize("height", [6, 7])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_pixel_and_a_gradient_that_are_no_number_spoil_their_own_windows_alone(
    value, height, padding, way, monkeypatch
):
    go(way, monkeypatch)
    x, weight, settings = random(2, 3, height, 7), random(3, 1, 5, 5, seed=1), {"padding": padding, "groups": 3}
    x[1, 1, 2, 6] = value  # at the end of a row
    x[1, 0, height - 1, 3] = value
    mine, theirs = ([t.clone().requires_grad_() for t in (x, weight)] for _ in range(2))
    y, expected = ops.conv2d(*mine, **settings), F.conv2d(*theirs, **settings)
    torch.testing.assert_close(y, expected, equal_nan=True)
    grad = random(*y.shape, seed=2)
    of_mine = torch.autograd.grad(y, mine, grad, retain_graph=True)
    of_theirs = torch.autograd.grad(expected, theirs, grad, retain_graph=True)
    for one, other in zip(of_mine, of_theirs, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    grad[0, 2, 1, 1] = value  # of the weight torch's gradient has such a number times the zeros of padding as well
    one, other = torch.autograd.grad(y, mine[0], grad)[0], torch.autograd.grad(expected, theirs[0], grad)[0]
    torch.testing.assert_close(one, other, equal_nan=True)


def test_a_kernel_that_sees_nothing_but_padding_has_no_gradient():
    settings = {"padding": (0, 5), "dilation": (1, 10), "groups": 20}  # its two columns see beside three pixels
    assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), random(2, 20, 60, 3), random(20, 1, 1, 2))


def test_an_image_that_torch_negates_only_when_it_is_read_matches():
    x, weight = random(2, 3, 40, 60, dtype=torch.float32), random(3, 1, 3, 3, dtype=torch.float32, seed=1)
    settings = {"stride": 2, "padding": 1, "groups": 3}
    torch.testing.assert_close(ops.conv2d(torch._neg_view(x), weight, **settings), F.conv2d(-x, weight, **settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [12, 13])
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 2), (2, 1)])
@pytest.mark.parametrize("value", [1.0, -0.0, 1e-42, torch.nan, torch.inf])
def test_planes_cut_by_a_stride_match_torch_whatever_number_a_pixel_is(value, stride, width, dtype, monkeypatch):
    go("planes", monkeypatch)
    weight, settings = random(3, 1, 3, 3, dtype=dtype, seed=1), {"stride": stride, "padding": 1, "groups": 3}
    for offset in (0, 1):  # two numbers that are read as one must lie as one would
        x = random(2 * 3 * 11 * width + offset, dtype=dtype)[offset:].view(2, 3, 11, width)
        x[1, 1, 4, 6:8] = value
        mine, theirs = ([t.clone().requires_grad_() for t in (x, weight)] for _ in range(2))
        mine[0] = x.requires_grad_()
        y, expected = ops.conv2d(*mine, **settings), F.conv2d(*theirs, **settings)
        assert y.grad_fn.name() == "depthwise_planesBackward"
        torch.testing.assert_close(y, expected, equal_nan=True)
        grad = random(*y.shape, dtype=dtype, seed=2)
        one, other = torch.autograd.grad(y, mine, grad), torch.autograd.grad(expected, theirs, grad)
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_spoils_what_it_is_multiplied_with_alone(value, way, monkeypatch):
    go(way, monkeypatch)
    # In float64 torch multiplies the zeros of padding too.
    x, weight = random(2, 3, 9, 7, dtype=torch.float32), random(3, 1, 3, 3, dtype=torch.float32, seed=1)
    settings = {"padding": 1, "groups": 3}
    weight[1, 0, 0, 2] = value  # of the pixel above at the right, which the last column and the first row do not have
    mine, theirs = ([t.clone().requires_grad_() for t in (x, weight)] for _ in range(2))
    y, expected = ops.conv2d(*mine, **settings), F.conv2d(*theirs, **settings)
    assert int(expected.isfinite().sum()) == y.numel() - 2 * 8 * 6
    torch.testing.assert_close(y, expected, equal_nan=True)
    grad = random(*y.shape, dtype=torch.float32, seed=2)
    one, other = torch.autograd.grad(y, mine, grad), torch.autograd.grad(expected, theirs, grad)
    torch.testing.assert_close(one, other, equal_nan=True)


def test_the_gradient_of_the_weight_is_the_same_whether_that_of_the_image_is_asked_for_or_not(monkeypatch):
    weight, settings = random(3, 1, 3, 3, seed=1).requires_grad_(), {"padding": 1, "groups": 3}
    grad = random(2, 3, 7, 7, seed=2)
    grad[0, 0, 0, 0] = torch.inf
    for way in WAYS:
        go(way, monkeypatch)
        found = []
        for asked in (True, False):
            x = random(2, 3, 7, 7).requires_grad_(asked)
            found.append(torch.autograd.grad(ops.conv2d(x, weight, **settings), weight, grad)[0])
        torch.testing.assert_close(*found)
        assert int(found[0].isfinite().sum()) == 3 * 9 - 4  # places (1, 1) to (2, 2) saw pixels from there


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    x, weight = random(16, 3, 9, 5), random(6, 1, 3, 3, seed=1)
    settings = {"stride": (2, 1), "padding": (2, 1), "groups": 3}
    for block in (1, 2 * 16 * 6 * 5, 1 << 20):
        monkeypatch.setattr(depthwise, "BLOCK", block)
        assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), x, weight)


def test_the_way_back_may_have_other_blocks_than_the_way_there(monkeypatch):
    # As after torch.set_num_threads, on which the size of a block depends.
    x, weight = random(2, 8, 12, 12).requires_grad_(), random(8, 1, 3, 3, seed=1).requires_grad_()
    go("planes", monkeypatch)
    y = ops.conv2d(x, weight, None, 2, 1, 1, 8)
    monkeypatch.setattr(depthwise_planes, "BLOCK", 100)
    got = torch.autograd.grad(y.square().sum(), (x, weight))
    wanted = torch.autograd.grad(F.conv2d(x, weight, None, 2, 1, 1, 8).square().sum(), (x, weight))
    torch.testing.assert_close(got, wanted)


def test_an_image_repeated_without_copies_and_channels_last_match_torch():
    weight = random(3, 1, 3, 3, seed=1)
    settings = {"padding": 1, "groups": 3}
    for x in (random(1, 3, 5, 5).expand(4, 3, 5, 5), random(2, 3, 6, 5).to(memory_format=torch.channels_last)):
        assert_agree(conv(ops.conv2d, **settings), conv(F.conv2d, **settings), x, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_it_is_right_within_its_roundings_and_the_gradients_keep_the_dtype(dtype):
    inputs = random(2, 3, 6, 6, dtype=dtype), random(3, 1, 3, 3, dtype=dtype, seed=1), random(3, dtype=dtype, seed=2)
    assert_within_precision(conv(ops.conv2d, groups=3), conv(F.conv2d, groups=3), *inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    ops.conv2d(*leaves, groups=3).sum().backward()
    assert [leaf.grad.dtype for leaf in leaves] == [dtype] * 3


def test_only_the_wanted_gradients_are_computed():
    for wanted in range(3):
        inputs = [random(16, 2, 4, 4), random(2, 1, 3, 3, seed=1), random(2, seed=2)]
        theirs = [x.clone().requires_grad_(i == wanted) for i, x in enumerate(inputs)]
        mine = [x.clone().requires_grad_(i == wanted) for i, x in enumerate(inputs)]
        F.conv2d(*theirs, groups=2).square().sum().backward()
        ops.conv2d(*mine, groups=2).square().sum().backward()
        torch.testing.assert_close(mine[wanted].grad, theirs[wanted].grad)
        assert [x.grad is None for x in mine] == [i != wanted for i in range(3)]


def test_the_output_may_be_changed_in_place_as_with_torch():
    def added(function):
        def f(x, weight):
            y = function(x, weight, groups=3)
            y += 1
            return y * y

        return f

    for batch in (2, 16):
        assert_agree(added(ops.conv2d), added(F.conv2d), random(batch, 3, 5, 5), random(3, 1, 3, 3, seed=1))


def node(channels, outputs, groups, batch=2, size=5, layout=lambda x: x, padding=0, stride=1):
    x, weight = random(batch, channels, size, size), random(outputs, channels // groups, 3, 3, seed=1)
    return ops.conv2d(layout(x).requires_grad_(), weight, None, stride, padding, 1, groups).grad_fn.name()


def test_one_group_a_channel_goes_this_way_and_others_do_not():
    assert node(4, 4, 4) == node(4, 4, 4, batch=1) == node(4, 4, 4, batch=32, size=9) == "depthwise_matrixBackward"
    assert node(4, 4, 4, batch=64, size=10) == node(4, 4, 4, size=14, padding=1, stride=2) == "depthwise_matrixBackward"
    assert node(4, 4, 4, batch=64, size=12) == node(4, 4, 4, size=15, padding=1, stride=2) == "depthwise_planesBackward"
    assert node(4, 4, 4, size=10, padding=50) == node(97, 97, 97, size=10) == "depthwise_planesBackward"
    assert node(600, 600, 600, batch=64, size=7) == "depthwise_matrixBackward"
    assert node(600, 600, 600, batch=63, size=7) == node(600, 600, 600, batch=64, size=8) == "depthwise_planesBackward"
    assert node(4, 8, 4) == node(4, 8, 4, batch=16) == "depthwise_conv2dBackward"
    assert node(4, 4, 4, batch=16, size=10, layout=batch_innermost) == "depthwise_conv2dBackward"
    assert node(4, 4, 4, batch=64, layout=batch_innermost) == "depthwise_conv2dBackward"
    assert node(4, 4, 2) == node(4, 4, 1) == node(1, 4, 1) == "conv2dBackward"


@pytest.mark.filterwarnings("ignore::UserWarning")  # dynamo's, of each call that it does not follow
def test_a_compiler_is_given_no_memory_that_holds_numbers_and_bits(monkeypatch):
    monkeypatch.delattr(depthwise_planes, "conv2d")
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 8, 3, padding=1, groups=8), random(4, 8, 20, 20).float()
    compiled = torch.compile(by_hand(layer), backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x))


def test_a_batch_comes_out_with_the_examples_innermost_and_a_few_images_as_they_came_in():
    two_each = random(6, 1, 3, 3, seed=1)
    assert ops.conv2d(random(16, 3, 5, 5), two_each, groups=3).permute(2, 3, 1, 0).is_contiguous()
    assert ops.conv2d(random(2, 3, 5, 5), two_each[:3], groups=3).is_contiguous()


def test_a_depthwise_and_a_pointwise_convolution_are_one_of_full_rank_one_kernels():
    # Howard et al. (2017), section 3.1: the pair is a full convolution whose kernels are products.
    x, down, across = random(2, 3, 6, 6), random(3, 1, 3, 3, seed=1), random(5, 3, 1, 1, seed=2)
    full = across * down[:, 0][None]
    torch.testing.assert_close(ops.conv2d(ops.conv2d(x, down, groups=3), across), F.conv2d(x, full))


@pytest.mark.parametrize("batch", [3, 16])
def test_a_separable_network_is_proven(batch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU6(),
            nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False),
            nn.Hardswish(),
            nn.Conv2d(4, 8, 5, padding="same", groups=4, padding_mode="reflect"),
            nn.Conv2d(8, 3, 1),
            nn.Flatten(),
            nn.Linear(3 * 16, 4),
        )
    proof = prove(model, random(batch, 2, 8, 8))
    assert proof.passed, proof.verdict

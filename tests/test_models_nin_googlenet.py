"""NiN and GoogLeNet: torchvision's keys and logits, the tables of the papers and the book, small images."""

import copy

import pytest
import torch
from against_torch import assert_refused, random
from against_torchvision import assert_is_torchvisions, weights
from torch import nn

from byhand.errors import SettingsError, ShapeError
from byhand.models.cost import layer_table, total
from byhand.models.inception import GoogLeNetOutputs, Inception, googlenet
from byhand.models.network_in_network import nin

both = pytest.mark.parametrize("constructor", [nin, googlenet], ids=lambda constructor: constructor.__name__)


def unborn(constructor, **options):
    """The network on the meta device: shapes without numbers, in no time and no memory."""
    with torch.device("meta"):
        return constructor(**options)


def kinds(layers):
    return [type(layer).__name__ for layer in layers]


def count(model):
    return sum(p.numel() for p in model.parameters())


def images(*shape):
    return torch.empty(shape, device="meta")


# NiN


def test_nin_has_the_shapes_and_parameters_of_the_book():
    rows = layer_table(unborn(nin, num_classes=10, in_channels=1), (1, 224, 224))
    maps = [row.output_shape for row in rows if row.kind == "Conv2d"]
    pools = [row.output_shape for row in rows if row.kind == "MaxPool2d"]
    assert maps == [*[(96, 54, 54)] * 3, *[(256, 26, 26)] * 3, *[(384, 12, 12)] * 3, *[(10, 5, 5)] * 3]
    assert pools == [(96, 26, 26), (256, 12, 12), (384, 5, 5)]
    assert rows[-1].output_shape == (10,)
    whole = 0
    for received, channels, kernel in ((1, 96, 11), (96, 256, 5), (256, 384, 3), (384, 10, 3)):
        whole += (received * kernel**2 + 1) * channels + 2 * (channels + 1) * channels
    assert total(rows).parameters == whole == 1_992_166
    assert count(unborn(nin)) == 7_439_608


def test_small_nin_is_the_papers_network_for_cifar10():
    model = unborn(nin, num_classes=10, small=True)
    rows = layer_table(model, (3, 32, 32))
    maps = [row.output_shape for row in rows if row.kind == "Conv2d"]
    assert maps == [
        *[(192, 32, 32), (160, 32, 32), (96, 32, 32)],
        *[(192, 16, 16)] * 3,
        *[(192, 8, 8), (192, 8, 8), (10, 8, 8)],
    ]
    hand = 192 * 76 + 160 * 193 + 96 * 161 + 192 * (96 * 25 + 1) + 2 * 192 * 193 + 192 * (192 * 9 + 1) + 192 * 193
    assert count(model) == hand + 10 * 193 == 966_986
    for size, sizes in {28: (14, 7), 64: (32, 16)}.items():
        pools = [row.output_shape[1] for row in layer_table(model, (3, size, size)) if row.kind == "MaxPool2d"]
        assert tuple(pools) == sizes


def test_dropout_in_nin_stands_between_the_blocks_and_global_pooling_has_no_parameters():
    assert kinds(unborn(nin).features) == [*["Sequential", "MaxPool2d"] * 3, "Dropout"]
    assert kinds(unborn(nin, small=True).features) == ["Sequential", "MaxPool2d", "Dropout"] * 2
    model = unborn(nin, small=True, dropout=0.25)
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.25}
    assert not any(isinstance(layer, nn.Linear) for layer in model.modules())


def test_logits_of_nin_are_the_means_of_its_last_maps_and_may_be_negative_without_the_last_relu():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nin(num_classes=10, in_channels=1, small=True, width=0.1).eval()
        bare = nin(num_classes=10, in_channels=1, small=True, width=0.1, last_relu=False).eval()
    bare.load_state_dict(model.state_dict())
    x = random(3, 1, 28, 28, dtype=torch.float32)
    maps = bare.classifier(bare.features(x))
    assert maps.shape == (3, 10, 7, 7)
    torch.testing.assert_close(bare(x), maps.mean((2, 3)))
    torch.testing.assert_close(model(x), maps.clamp(min=0).mean((2, 3)))
    assert (bare(x) < 0).any()


def test_nin_keeps_the_size_of_its_maps_at_the_start():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nin(num_classes=10, small=True, last_relu=False).eval()
    with torch.no_grad():
        deviation = float(model.classifier(model.features(random(4, 3, 32, 32, dtype=torch.float32))).std())
    assert 0.1 < deviation < 10
    assert not any(value.any() for key, value in model.state_dict().items() if key.endswith("bias"))


# GoogLeNet

CHANNELS = {  # Szegedy et al., Table 1: 1×1, before 3×3, 3×3, before 5×5, 5×5, after pooling
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
MILLIONS = {"3a": 128, "3b": 304, "4a": 73, "4b": 88, "4c": 100, "4d": 119, "4e": 170, "5b": 71}  # its column "ops"


def test_keys_shapes_and_logits_are_torchvisions():
    assert_is_torchvisions(googlenet(), "googlenet")


def test_without_the_heads_it_costs_what_torchvision_publishes():
    whole = total(layer_table(unborn(googlenet, aux_logits=False), (3, 224, 224)))
    assert whole.parameters == 6_624_904
    assert round(whole.multiply_adds / 1e9, 1) == 1.5
    keys = unborn(googlenet, aux_logits=False).state_dict()
    assert [key for key in unborn(googlenet).state_dict() if not key.startswith("aux")] == list(keys)


def test_the_papers_form_has_the_channels_shapes_and_costs_of_its_table():
    model = unborn(googlenet, paper=True)
    rows = layer_table(model, (3, 224, 224))
    assert not any(row.kind == "BatchNorm2d" for row in rows)
    for name, (received, one, to_three, three, to_five, five, pooled) in CHANNELS.items():
        mine = [row for row in rows if row.name.startswith(f"inception{name}.") and row.kind == "Conv2d"]
        products = [
            *(received * one, received * to_three, to_three * three * 9),
            *(received * to_five, to_five * five * 25, received * pooled),
        ]
        biases = (one, to_three, three, to_five, five, pooled)
        assert [row.parameters for row in mine] == [w + b for w, b in zip(products, biases, strict=True)]
        size = {"3": 28, "4": 14, "5": 7}[name[0]]
        assert {row.output_shape[1:] for row in mine} == {(size, size)}
        assert getattr(model, f"inception{name}").out_channels == one + three + five + pooled
        if name in MILLIONS:  # the table has 54 for 5a, which its own channels do not give: 51
            assert abs(sum(row.multiply_adds for row in mine) / 1e6 - MILLIONS[name]) < 1
    stem = sum(row.multiply_adds for row in rows if row.name.startswith(("conv2.", "conv3."))) / 1e6
    assert abs(stem - 360) < 1
    assert 1.5 <= total(rows).multiply_adds / 1e9 < 1.6  # "1.5 billion multiply-adds at inference time", section 1


def test_the_papers_form_has_as_many_parameters_as_caffes_model_of_it():
    assert count(unborn(googlenet, paper=True)) == 13_378_280
    assert count(unborn(googlenet, paper=True, aux_logits=False)) == 6_998_552


def test_the_papers_form_normalises_responses_and_drops_more():
    model = unborn(googlenet, paper=True)
    leaves = [layer for layer in model.modules() if not list(layer.children())]
    assert kinds(leaves[:9]) == [
        *["Conv2d", "ReLU", "MaxPool2d", "LocalResponseNorm"],  # Figure 3, from below
        *["Conv2d", "ReLU", "Conv2d", "ReLU", "LocalResponseNorm"],
    ]
    assert (model.dropout.p, unborn(googlenet).dropout.p) == (0.4, 0.2)
    assert (model.aux1.dropout.p, unborn(googlenet).aux2.dropout.p) == (0.7, 0.7)
    given = unborn(googlenet, dropout=0.1, dropout_aux=0.3)
    assert (given.dropout.p, given.aux1.dropout.p, given.aux2.dropout.p) == (0.1, 0.3, 0.3)


def test_a_block_joins_its_four_branches_by_channel():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = Inception(6, (2, 4, 8, 2, 6, 4), paper=True).eval()
    x = random(2, 6, 5, 5, dtype=torch.float32)
    y = block(x)
    assert y.shape == (2, 2 + 8 + 6 + 4, 5, 5)

    def branch(sequence):
        convolutions = [layer for layer in sequence.modules() if isinstance(layer, nn.Conv2d)]
        result = x
        if isinstance(sequence[0], nn.MaxPool2d):
            result = nn.functional.max_pool2d(x, 3, stride=1, padding=1)
        for layer in convolutions:
            size = layer.kernel_size[0] // 2
            result = nn.functional.conv2d(result, layer.weight, layer.bias, padding=size).clamp(min=0)
        return result

    expected = torch.cat([branch(one) for one in (block.branch1, block.branch2, block.branch3, block.branch4)], 1)
    torch.testing.assert_close(y, expected)
    assert [one[-1].conv.kernel_size[0] for one in (block.branch2, block.branch3, block.branch4)] == [3, 5, 1]
    assert Inception(6, (2, 4, 8, 2, 6, 4), paper=False).branch3[-1].conv.kernel_size == (3, 3)


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_the_heads_answer_in_training_only(paper, small):
    model = unborn(googlenet, num_classes=7, paper=paper, small=small)
    x = images(2, 3, 224, 224)
    outputs = model(x)
    assert isinstance(outputs, GoogLeNetOutputs)
    assert outputs._fields == ("logits", "aux_logits2", "aux_logits1")
    assert {tuple(output.shape) for output in outputs} == {(2, 7)}
    assert model.eval()(x).shape == (2, 7)
    without = unborn(googlenet, num_classes=7, paper=paper, small=small, aux_logits=False)
    assert without(x).shape == (2, 7)


def test_each_head_reads_the_block_that_the_paper_says():
    heads = unborn(googlenet, paper=True)
    assert (heads.aux1.conv.conv.in_channels, heads.aux2.conv.conv.in_channels) == (512, 528)  # 4a and 4d
    assert heads.aux1.avgpool[0](images(2, 512, 14, 14)).shape == (2, 512, 4, 4)  # section 5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = googlenet(num_classes=3, small=True, width=0.1)
    x = random(2, 3, 28, 28, dtype=torch.float32)
    for output, (learns, does_not) in {1: ("4d", "4e"), 2: ("4a", "4b")}.items():  # aux_logits2, aux_logits1
        model.zero_grad(set_to_none=True)
        model(x)[output].sum().backward()
        touched = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert f"inception{learns}" in touched
        assert f"inception{does_not}" not in touched
        assert f"aux{3 - output}" in touched
        assert f"aux{output}" not in touched


def test_it_starts_as_torchvisions_and_the_papers_form_as_he_et_al():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, paper = googlenet(small=True), googlenet(small=True, paper=True, aux_logits=False)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() > 5000:
            assert abs(float(layer.weight.detach().std()) / 0.01 - 1) < 0.05
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.eps == 0.001
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
    for layer in paper.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() > 5000:
            assert abs(float(layer.weight.detach().std()) * (layer.weight[0].numel() / 2) ** 0.5 - 1) < 0.05
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert not layer.bias.any()


def test_transform_input_takes_imagenets_normalisation_back():
    plain = googlenet(num_classes=3, small=True, width=0.25).eval()
    turned = googlenet(num_classes=3, small=True, width=0.25, transform_input=True).eval()
    for model in (plain, turned):  # torchvision's start lets so little through that any two images look alike
        model.load_state_dict(weights(model.state_dict()))
    pixels = random(2, 3, 28, 28).sigmoid().float()  # 0..1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(turned(normalised), plain((pixels - 0.5) / 0.5), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(turned(normalised), plain(normalised), rtol=1e-2, atol=1e-2)
    refused = (SettingsError, lambda: googlenet(in_channels=1, transform_input=True))
    assert_refused(*refused, "transform_input=True", "in_channels=1")


# both


@pytest.mark.parametrize(
    ("constructor", "options"),
    [(nin, {}), (nin, {"last_relu": False}), (googlenet, {}), (googlenet, {"paper": True})],
    ids=["nin", "nin without its last ReLU", "googlenet", "the paper's googlenet"],
)
@pytest.mark.parametrize("size", [28, 32, 64])
def test_a_small_network_takes_small_images_and_every_parameter_learns(constructor, options, size):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = constructor(num_classes=10, in_channels=1, small=True, width=0.25, **options)
        outputs = model(random(8, 1, size, size, dtype=torch.float32))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for logits in outputs:
        assert logits.shape == (8, 10)
        assert torch.isfinite(logits).all()
    sum(nn.functional.cross_entropy(logits, torch.arange(8)) for logits in outputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@both
def test_a_small_network_of_full_width_is_a_small_one_and_width_scales_it(constructor):
    full, half = (unborn(constructor, num_classes=10, small=True, width=width) for width in (1, 0.5))
    costs = [total(layer_table(model, (3, 32, 32))) for model in (full, half)]
    assert costs[0].multiply_adds < 0.5e9
    assert 3.2 < costs[0].multiply_adds / costs[1].multiply_adds < 4.2
    assert 3 < costs[0].parameters / costs[1].parameters < 4.2


@both
def test_classes_channels_and_sizes_are_free(constructor):
    model = unborn(constructor, num_classes=7, in_channels=5).eval()
    assert model(images(2, 5, 96, 130)).shape == (2, 7)
    assert model(images(0, 5, 224, 224)).shape == (0, 7)


@pytest.mark.parametrize(
    ("constructor", "options", "smallest"),
    [
        (nin, {}, 67),
        (nin, {"small": True}, 4),
        (googlenet, {}, 15),
        (googlenet, {"small": True}, 4),
        (googlenet, {"paper": True}, 79),
        (googlenet, {"paper": True, "aux_logits": False}, 15),
        (googlenet, {"paper": True, "small": True}, 4),
    ],
)
def test_the_smallest_image_is_the_smallest_that_torch_can_take(constructor, options, smallest):
    model = unborn(constructor, num_classes=10, **options)
    fits, too_small = images(2, 3, smallest, smallest + 1), images(2, 3, smallest, smallest - 1)
    outputs = model(fits)  # in training: the heads too
    assert (outputs[0] if isinstance(outputs, tuple) else outputs).shape == (2, 10)
    name = constructor.__name__
    assert_refused(ShapeError, lambda: model(too_small), name, f"{smallest} × {smallest}", smallest - 1)
    unchecked = copy.copy(model)
    unchecked.smallest = 1
    with pytest.raises(RuntimeError, match="utput size is too small"):
        unchecked(too_small)


@both
def test_images_of_other_channels_or_without_a_batch_axis_are_refused(constructor):
    model = unborn(constructor)
    for channels in (1, 4):
        x = images(2, channels, 224, 224)
        assert_refused(ShapeError, lambda x=x: model(x), "in_channels=3", f"in_channels={channels}", "224")
    assert_refused(ShapeError, lambda: model(images(3, 224, 224)), "(3, 224, 224)", "x[None]")
    assert_refused(ShapeError, lambda: model(images(2, 3)), "(2, 3)")


@both
def test_impossible_options_are_refused(constructor):
    for option in ("num_classes", "in_channels"):
        for value in (0, -1, 2.5):
            assert_refused(SettingsError, lambda o=option, v=value: constructor(**{o: v}), f"{option}={value}")
    for value in (-0.1, 1.5, float("nan")):
        assert_refused(SettingsError, lambda v=value: constructor(dropout=v), f"dropout={value!r}")
    for value in (0, -1, float("nan"), "2"):
        assert_refused(SettingsError, lambda v=value: constructor(width=v), f"width={value!r}")
    assert_refused(SettingsError, lambda: googlenet(dropout_aux=2), "dropout_aux=2")


@pytest.mark.parametrize("small", [False, True])
def test_one_image_that_leaves_one_value_to_a_normalisation_is_refused_in_training_alone(small):
    model = googlenet(num_classes=3, small=small, aux_logits=False, width=0.1)
    for side in (model.alone, model.alone - 1):
        x = random(1, 3, side, max(side // 2, model.smallest), dtype=torch.float32)
        if side == model.alone:
            assert model.train()(x).isfinite().all()
            continue
        assert_refused(ShapeError, lambda x=x: model(x), "one value a channel", f"a side of {model.alone} pixels")
        assert model.eval()(x).isfinite().all()
        unchecked = copy.copy(model.train())
        unchecked.alone = 1
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            unchecked(x)

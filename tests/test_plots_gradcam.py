"""Grad-CAM against the paper's own special case and a version with torch's hooks; the layers asked for by name."""

import numpy as np
import pytest
import torch
from test_plots import (
    FASHION,
    classification,
    needs_chinese_font,
    pixels,
    regression,
    take_chinese_fonts_away,
    texts,
    tiles,
)
from torch import nn

from byhand import models, plots
from byhand.errors import DataError, SettingsError, ShapeError, UnknownName
from byhand.plots import Focus, focus, gradcam, inside


def small_network(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(5 * 2 * 2, 3),
    ).eval()


def with_hooks(model, layer, image, label):
    """Grad-CAM of one image as the paper's readers write it: a forward hook, a backward hook, equations 1 and 2."""
    kept = {}
    handles = [
        layer.register_forward_hook(lambda _, __, output: kept.update(A=output.detach().clone())),
        layer.register_full_backward_hook(lambda _, __, gradients: kept.update(dA=gradients[0].detach().clone())),
    ]
    logits = model(image.clone().requires_grad_())
    label = int(logits[0].argmax()) if label is None else label
    model.zero_grad()
    logits[0, label].backward()
    for handle in handles:
        handle.remove()
    A, dA = kept["A"][0], kept["dA"][0]
    L = torch.zeros(A.shape[1:])
    for k in range(len(A)):
        L += dA[k].sum() / dA[k].numel() * A[k]
    return L.clamp(min=0), label


@pytest.mark.parametrize("layer", ["0", "2", "3", "4", None])
@pytest.mark.parametrize("label", [None, 1])
def test_maps_are_those_of_torchs_hooks_image_by_image(layer, label):
    model = small_network()
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = plots.grad_cam(model, batch, layer, label)
    assert found.maps.abs().sum() > 0
    for index, image in enumerate(batch):
        expected, klass = with_hooks(model, model[int(layer or 3)], image[None], label)
        torch.testing.assert_close(found.maps[index], expected)
        assert int(found.classes[index]) == klass
        share = float(model(image[None]).detach().softmax(1)[0, klass])
        assert abs(float(found.probabilities[index]) - share) < 1e-6


def test_a_first_layer_that_works_in_place_is_no_fault():
    batch = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))  # which a ReLU leaves as it is
    plain, begun = small_network(), nn.Sequential(nn.ReLU(inplace=True), *small_network()).eval()
    expected, found = plots.grad_cam(plain, batch, "3"), plots.grad_cam(begun, batch, "4")
    torch.testing.assert_close(found.maps, expected.maps)


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("alexnet", 224, "features.10"),  # pooled afterwards
        ("googlenet", 64, "inception5b"),  # its last convolution sees the whole map at each of 2 × 2 places
        ("resnet18", 64, "layer4"),
        ("mobilenet_v3_small", 64, "features"),  # squeeze-and-excitation convolves one place
        ("mobilenet_v3_small", 32, "features.9.block.0"),  # the next has a stride, to one place
    ],
)
def test_without_a_layer_it_is_the_last_with_places_as_large_as_it_goes(name, size, layer):
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=3).eval()
    image = torch.randn(1, 3, size, size)
    found = plots.grad_cam(model, image)
    assert found.layer == layer
    torch.testing.assert_close(found.maps[0], with_hooks(model, model.get_submodule(layer), image, None)[0])


def test_with_global_average_pooling_it_is_the_class_activation_map_of_zhou_et_al():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    batch = torch.randn(2, 1, 8, 8)
    found = plots.grad_cam(model, batch, label=2)
    # section 3.1: alpha is the class's weight, over the number of places
    expected = (linear.weight[2][None, :, None, None] * conv(batch)).sum(1).clamp(min=0) / 36
    torch.testing.assert_close(found.maps, expected.detach())


def test_a_layer_before_an_in_place_one_and_parameters_are_left_as_they_were():
    batch = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = small_network(inplace=True)
    torch.testing.assert_close(plots.grad_cam(model, batch).maps, plots.grad_cam(small_network(), batch).maps)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(plots.grad_cam(model, batch).maps, plots.grad_cam(small_network(), batch).maps)


@pytest.mark.parametrize(
    ("layer", "label", "said"),
    [("6", None, "no maps"), ("5", None, "no maps"), ("3", 3, "one of the 3 classes"), ("3", -1, "0 to 2")],
)
def test_layers_without_maps_and_labels_outside_the_classes_are_errors(layer, label, said):
    with pytest.raises(SettingsError, match=said) as raised:
        plots.grad_cam(small_network(), torch.zeros(1, 1, 8, 8), layer, label)
    assert "\n" not in str(raised.value)


def test_a_network_without_convolutions_and_a_layer_beside_the_way_are_errors():
    with pytest.raises(SettingsError, match="no convolution"):
        plots.grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.zeros(1, 1, 8, 8))

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 1, 3), nn.Linear(64, 3)

        def forward(self, x):
            self.conv(x)
            return self.fc(x.flatten(1))

    with pytest.raises(SettingsError, match="no part in the logits"):
        plots.grad_cam(Beside(), torch.zeros(1, 1, 8, 8))
    model = Beside()
    model.unused = nn.Conv2d(1, 1, 3)
    with pytest.raises(SettingsError, match="puts out no tensor"):
        plots.grad_cam(model, torch.zeros(1, 1, 8, 8), "unused")


def test_heat_lies_over_the_image_where_the_map_is_greatest():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 3] = 5  # top right
    found = gradcam.Activation(maps, torch.tensor([1, 0]), torch.tensor([0.25, 1.0]))
    figure = plots.heat_over_images(torch.zeros(2, 1, 16, 16), found, "conv", FASHION, ["first", "second"])
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    bright = [picture.sum(-1) for picture in drawn if picture.ndim == 3]
    row, column = np.unravel_index(bright[0].argmax(), (16, 16))
    assert row < 4
    assert column >= 12
    assert np.ptp(bright[1]) == 0
    said = texts(figure)
    assert "Trouser: 25.0%" in said
    assert "T-shirt/top: 100.0%\nnothing for it here" in said
    pixels(figure)
    with pytest.raises(ShapeError, match="1 images for 2 maps"):
        plots.heat_over_images(torch.zeros(1, 1, 16, 16), found, "conv")


# layers by their names


def test_an_unknown_layer_is_an_error_with_the_nearest_names():
    with pytest.raises(UnknownName, match=r"'layer2.0.conv3'.*'layer2\.0\.conv[12]'.* or ") as raised:
        inside.named_layer(models.build("resnet20"), "layer2.0.conv3")
    assert "\n" not in str(raised.value)


def test_filters_and_maps_of_any_layer_are_its_own(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 1), nn.Flatten())
    model.append(nn.Linear(8 * 4 * 4, 10))
    run, dataset = classification(tmp_path, model)
    drawn = tiles(plots.figures_of(run, dataset, only="filters", focus=Focus("2"))["filters"])
    np.testing.assert_allclose(drawn[5], model[2].weight[1, 1].detach())
    for layer in ("3", "5"):  # 1×1 filters, and a linear layer of no image
        (drawn, *_) = tiles(plots.figures_of(run, dataset, only="filters", focus=Focus(layer))["filters"])
        np.testing.assert_allclose(drawn, model[int(layer)].weight.detach().flatten(1))
    figure = plots.figures_of(run, dataset, only="features", focus=Focus("2", [3]))["features"]
    image, *maps = tiles(figure)
    np.testing.assert_array_equal(image, dataset.test_images[3, 0])
    expected = model[:3](run.prepare(dataset.test_images[3:4]))[0].detach()
    assert len(maps) == 6
    for drawn, values in zip(maps, expected, strict=True):
        np.testing.assert_allclose(drawn, values, rtol=1e-5)
    with pytest.raises(SettingsError, match=r"'1' is a ReLU and has no filters.*: 0, 2, 3, 5"):
        plots.figures_of(run, dataset, only="filters", focus=Focus("1"))


def test_pictures_of_a_focus_have_files_of_their_own(tmp_path):
    run, dataset = classification(tmp_path)
    paths = plots.save_figures(run, dataset, only=["filters", "gradcam"], focus=Focus("0", [1, 2], "Coat"))
    assert [path.name for path in paths] == ["filters-0.png", "gradcam-0-1-2-as-Coat.png"]
    assert Focus("0", label="T-shirt/top").file_name("gradcam") == "gradcam-0-as-T-shirt-top"
    assert Focus(images=["some/cat.jpeg"]).file_name("features") == "features-cat"


def test_grad_cam_of_a_run_shows_each_class_once_or_the_images_and_class_asked_for(tmp_path):
    run, dataset = classification(tmp_path)
    said = texts(plots.figures_of(run, dataset, only="gradcam")["gradcam"])
    there = sorted(set(dataset.test_labels.tolist()))
    assert [text for text in said if text.startswith("true: ")] == [f"true: {FASHION[label]}" for label in there]
    for label in ("coat", "4", 4, "Coat"):
        said = texts(plots.figures_of(run, dataset, only="gradcam", focus=Focus(images=[7, 0], label=label))["gradcam"])
        assert [text for text in said if text.startswith("true: ")] == [
            f"true: {FASHION[dataset.test_labels[index]]}" for index in (7, 0)
        ]
        shares = run.logits(dataset.test_images[[7, 0]]).softmax(1)[:, 4]
        assert [text.split("\n")[0] for text in said if text.startswith("Coat: ")] == [f"Coat: {s:.1%}" for s in shares]


def test_a_picture_file_is_made_to_fit_and_named(tmp_path):
    from PIL import Image

    run, dataset = classification(tmp_path)
    picture = np.full((30, 30), 255, np.uint8)
    picture[5:25, 12:18] = 0
    Image.fromarray(picture).save(tmp_path / "one.png")
    at = Focus(images=[tmp_path / "one.png"])
    found = plots.figures_of(run, dataset, only=["features", "gradcam"], focus=at)
    assert "one.png" in texts(found["gradcam"])
    assert any("one.png" in text for text in texts(found["features"]))
    assert tiles(found["features"])[0].shape == (8, 8)


@pytest.mark.parametrize(
    ("only", "at", "error", "said"),
    [
        ("loss", Focus("0"), SettingsError, "layer='0' is for filters, features, gradcam, receptive; none"),
        (None, Focus("conv"), UnknownName, "unknown layer 'conv'"),
        (None, Focus(label="10"), UnknownName, "unknown class '10'"),
        ("features", Focus(label=1), SettingsError, "label=1 is for gradcam"),
        ("features", Focus(images=[1, 2]), SettingsError, "give one"),
        ("features", Focus(images=[40]), DataError, "no test image 40; there are 40"),
        ("gradcam", Focus(images=[-1]), DataError, "no test image -1"),
        ("gradcam", Focus(images=["no.png"]), DataError, "no picture at no.png"),
        ("gradcam", Focus(label="Caot"), UnknownName, "did you mean 'coat'"),
        ("gradcam", Focus(label="10"), UnknownName, "unknown class '10'"),
        ("gradcam", Focus("4"), SettingsError, "no maps"),
        ("receptive", Focus("conv"), UnknownName, "unknown layer 'conv'"),
    ],
)
def test_a_focus_that_does_not_fit_is_an_error_of_one_line(tmp_path, only, at, error, said):
    run, dataset = classification(tmp_path / "run")
    with pytest.raises(error, match=said) as raised:
        plots.save_figures(run, dataset, only=only, focus=at)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "figures").exists()


def test_a_focus_without_names_draws_the_pictures_that_take_all_of_it(tmp_path):
    run, dataset = classification(tmp_path)
    assert set(plots.figures_of(run, dataset, focus=Focus("0"))) == {"filters", "features", "gradcam", "receptive"}
    assert set(plots.figures_of(run, dataset, focus=Focus("0", [3]))) == {"features", "gradcam"}
    assert set(plots.figures_of(run, dataset, focus=Focus(label=1))) == {"gradcam"}


def test_of_a_focus_without_names_what_does_not_fit_is_named_and_left_out(tmp_path):
    run, dataset = classification(tmp_path)
    with pytest.warns(UserWarning, match=r"left out: filters \(layer '1' is a ReLU.*no filters"):
        found = plots.figures_of(run, dataset, focus=Focus("1"))
    assert set(found) == {"features", "gradcam", "receptive"}
    flat, data = classification(tmp_path / "flat", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(SettingsError, match="label=1 is for gradcam; this run has none"):
        plots.figures_of(flat, data, focus=Focus(label=1))
    with pytest.raises(
        SettingsError, match="layer='0' is for filters, features, gradcam, receptive; this run has none"
    ):
        plots.figures_of(*regression(tmp_path), focus=Focus("0"))


def test_runs_without_convolutions_have_neither_picture(tmp_path):
    run, dataset = classification(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert not {"gradcam", "receptive"} & set(plots.figures_of(run, dataset))
    with pytest.raises(SettingsError, match="'gradcam'"):
        plots.figures_of(run, dataset, only="gradcam")
    with pytest.raises(SettingsError, match=r"'receptive'.*regression"):
        plots.figures_of(*regression(tmp_path), only="receptive")
    assert focus.class_index("0", ["7", "0"]) == 1  # a name comes before a number


@pytest.mark.parametrize("font", [pytest.param(True, marks=needs_chinese_font), False])
def test_chinese_pictures_of_layers_are_in_chinese_where_a_font_can_write_it(font, tmp_path, monkeypatch):
    run, dataset = classification(tmp_path)
    if not font:
        take_chinese_fonts_away(monkeypatch)
    wanted = ["filters", "features", "gradcam", "receptive"]
    for figure in plots.figures_of(run, dataset, "zh", wanted, Focus("0")).values():
        pixels(figure)
        assert any("\u4e00" <= letter <= "\u9fff" for text in texts(figure) for letter in text) == font

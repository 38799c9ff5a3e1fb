"""Gradient norms and receptive fields as measured: against parameter.grad, by hand, and what the panels draw."""

import dataclasses

import numpy as np
import pytest
import torch
from test_plots import classification, pixels, texts
from torch import nn

from byhand import data, models, plots
from byhand.errors import NonFiniteLoss, SettingsError, ShapeError, UnknownName
from byhand.models.receptive import receptive_fields
from byhand.plots import Focus, receptive
from byhand.plots.gradients import Norms


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))


def test_norms_are_those_of_the_gradients_of_a_training_loop():
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randn(20, 1, 8, 8, generator=generator), torch.randint(4, (20,), generator=generator)
    found = plots.gradient_norms(network(), images, labels, steps=4, batch_size=5, lr=0.05, momentum=0.5, seed=9)
    assert found.names == ["0", "4"]
    model = network().train()
    generator = torch.Generator().manual_seed(9)
    moving = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for step in range(4):
        batch = torch.randperm(20, generator=generator)[:5]
        model.zero_grad()
        log_p = model(images[batch]).log_softmax(1)
        (-log_p[range(5), labels[batch]].mean()).backward()
        expected = [float((model[i].weight.grad ** 2).sum().sqrt()) for i in (0, 4)]
        np.testing.assert_allclose(found.values[step], expected, rtol=1e-4)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                moving[name] = 0.5 * moving[name] + parameter.grad
                parameter -= 0.05 * moving[name]
    assert len(found.values) == 4


@pytest.mark.parametrize(
    ("wrong", "said"), [({"steps": 0}, "steps=0"), ({"batch_size": 21}, "20 images"), ({"batch_size": 0}, "from 1")]
)
def test_impossible_numbers_of_steps_and_images_are_refused(wrong, said):
    with pytest.raises(SettingsError, match=said):
        plots.gradient_norms(network(), torch.randn(20, 1, 8, 8), torch.zeros(20, dtype=torch.long), **wrong)


def test_a_loss_that_is_no_number_names_its_step():
    images = torch.full((4, 1, 8, 8), float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"step 1; choose an lr below 0\.1"):
        plots.gradient_norms(network(), images, torch.zeros(4, dtype=torch.long), batch_size=4)


def test_pairs_are_of_the_same_layers_and_start_from_the_same_weights():
    digits = data.load("digits")
    few = dataclasses.replace(digits, train_images=digits.train_images[:40], train_labels=digits.train_labels[:40])
    state = torch.get_rng_state()
    panels = plots.pairs_measured(few, depth=20, steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    (_, residual), (_, plain), (_, normalised), (_, bare) = panels
    assert residual.names == plain.names
    assert len(plain.names) == 20  # a ResNet's depth counts its layers with weights
    assert len(normalised.names) == len(bare.names) == 5
    # a sigmoid's slope is at most 1/4, so without normalisation each layer back gets less (Glorot & Bengio 2010)
    assert (np.diff(bare.values[0]) > 0).all()
    assert bare.values[0, 0] < 0.1 * normalised.values[0, 0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one = models.build("resnet20", in_channels=1)
        torch.manual_seed(0)
        other = models.build("resnet20", in_channels=1, shortcut=False)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_other_depths_and_data_without_images_are_refused():
    with pytest.raises(SettingsError, match="depth=21 must be one of 20, 32"):
        plots.pairs_measured(data.load("digits"), depth=21)
    with pytest.raises(SettingsError, match="'synthetic-linear' has no images"):
        plots.pairs_measured(data.load("synthetic-linear"))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_panels_draw_a_line_for_each_step_over_the_layers_on_one_axis(lang):
    values = np.array([[1e-3, 1.0, 10.0], [2e-3, 0.0, 20.0]])
    panels = [("with", Norms(["a", "b", "c"], values)), ("without", Norms(["a", "b", "c"], 100 * values))]
    figure = plots.gradient_norm_curves(panels, "title", lang)
    left, right = figure.axes[:2]
    for axes, factor in ((left, 1), (right, 100)):
        assert axes.get_yscale() == "log"
        first, second = axes.lines
        np.testing.assert_allclose(first.get_ydata(), factor * values[0])
        np.testing.assert_allclose(second.get_ydata()[[0, 2]], factor * values[1, [0, 2]])
        assert np.isnan(second.get_ydata()[1])
    assert left.get_ylim() == right.get_ylim()
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["a", "b", "c"]
    pixels(figure)


def test_panels_without_steps_are_refused():
    with pytest.raises(ShapeError, match=r"\(0, 3\)"):
        plots.gradient_norm_curves([("x", Norms(["a", "b", "c"], np.zeros((0, 3))))])
    with pytest.raises(ShapeError, match="no panel"):
        plots.gradient_norm_curves([])


# receptive fields


def test_the_measured_field_of_one_convolution_is_its_weights():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(inplace=True)).eval()
    with torch.no_grad():
        (found,) = plots.effective_fields(model, torch.randn(4, 2, 7, 7), ["0"])
    assert found.unit == (3, 3)
    expected = np.zeros((7, 7))
    expected[2:5, 2:5] = conv.weight.detach().sum(0).abs().sum(0)
    np.testing.assert_allclose(found.share, expected, rtol=1e-5)
    assert conv.weight.grad is None


def test_frames_stand_around_the_field_and_the_image(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(2, 2, 5, padding=4), nn.Flatten())
    model.append(nn.Linear(2 * 8 * 8, 10))
    run, dataset = classification(tmp_path, model)
    figure = plots.figures_of(run, dataset, only="receptive", focus=Focus("2"))["receptive"]
    axes = figure.axes[0]
    image, frame = ([*patch.get_xy(), patch.get_width(), patch.get_height()] for patch in axes.patches)
    assert image == [-0.5, -0.5, 8, 8]
    # by hand: 3, then 4 of jump 2, then 4 + 4 · 2 = 12; first = -1 - 4 · 2 = -9; the unit (4, 4) lies 8 further
    assert frame == [-1.5, -1.5, 12, 12]
    assert any("12×12, jump 2" in text for text in texts(figure))
    low, high = axes.get_xlim()
    assert low < -1.5
    assert high > 10.5
    whole = plots.figures_of(run, dataset, only="receptive", focus=Focus("4"))["receptive"]
    assert any("the whole input" in text for text in texts(whole))
    pixels(whole)


def test_of_many_layers_six_are_drawn_from_the_first_to_the_last():
    fields = receptive_fields(models.build("resnet20"), (3, 32, 32))
    chosen = receptive.chosen_fields(fields)
    sizes = [field.size[0] for field in chosen]
    assert len(sizes) == 6
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (3, 81)
    (one,) = receptive.chosen_fields(fields, "layer2.0.conv1")
    assert one.size == (17, 17)
    with pytest.raises(ShapeError, match="1 fields and 0"):
        plots.receptive_fields_figure([one], [])
    with pytest.raises(UnknownName):
        plots.effective_fields(models.build("lenet5"), torch.zeros(1, 1, 32, 32), ["features.9"])

"""Any network on a user's own images: what the data decide, fine-tuning, the run afterwards, and bad pictures."""

import copy
import hashlib
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import made
from PIL import Image
from torch.nn import functional as F

import byhand as library
from byhand import data, jobs, models
from byhand.data.arrays import Dataset
from byhand.data.preparation import Preparation
from byhand.errors import DataError, SettingsError
from byhand.models.weights import head_of
from byhand.plots.focus import images_of
from byhand.recipes.own import own_recipe
from byhand.runs.run import Run
from byhand.training.batches import batches, num_batches
from byhand.training.fit import fit
from byhand.training.settings import Settings
from byhand.training.state import State
from byhand.training.steps import DeviceStep, Step
from byhand.training.tasks import correct_of, loss_of

CPU = torch.device("cpu")
QUICK = ("--epochs", 1, "--threads", 1, "--no-plots")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in an empty folder of its own, and with a home of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BYHAND_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    return folder


def picture(level, size=8, seed=0, grey=False):
    """Noise around a level."""
    shape = (size, size) if grey else (size, size, 3)
    noise = np.random.default_rng(seed).integers(-20, 21, shape)
    return Image.fromarray((level + noise).clip(0, 255).astype(np.uint8))


def images_in(folder, classes=("day", "night"), count=10, size=8, grey=False, suffix="png"):
    """A folder of pictures: each class has its own brightness."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            drawn = picture(200 - 150 * label // (len(classes) - 1), size, 100 * label + i, grey)
            drawn.save(folder / name / f"{i:03}.{suffix}")
    return folder


def trained_on(folder, byhand, network="mlp", *options):
    said = byhand("train", "--network", network, "--dataset", f"image-folder:{folder}", *QUICK, "--json", *options)
    assert said.code == 0, said
    return Run.open(said.records[0]["run"])


def empty(channels, size, num_classes=3, name="cifar10", n=40):
    """A data set of black images, for what depends on shapes alone."""
    images, labels = torch.zeros(n, channels, size, size, dtype=torch.uint8), torch.arange(n) % num_classes
    return Dataset(name, images, labels, images, labels, class_names=tuple("abcdefghij"[:num_classes]))


# What the data decide


def test_classes_channels_size_mean_and_deviation_come_from_the_pictures(byhand, tmp_path):
    folder = images_in(tmp_path / "sky", ("dawn", "day", "night"))
    run = trained_on(folder, byhand, "resnet20")
    record = run.recipe()
    assert record["network"] == {"name": "resnet20", "options": {"num_classes": 3, "in_channels": 3, "small": True}}
    assert record["recipe"] == "resnet20-on-sky"
    assert record["dataset"] == f"image-folder:{folder}"
    assert record["class_names"] == ["dawn", "day", "night"]
    assert record["input_shape"] == [3, 8, 8]
    # The pictures for training are those that the run does not test on; read here by Pillow and numpy alone.
    kept = {tuple(image.flatten().tolist()) for image in jobs.dataset_of(run).train_images.permute(0, 2, 3, 1)}
    arrays = [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]
    pixels = np.stack([array for array in arrays if tuple(array.flatten().tolist()) in kept]) / 255
    assert len(pixels) == 27
    prepared = record["preparation"]
    assert (prepared["size"], prepared["fit"]) == (None, None)
    np.testing.assert_allclose(prepared["mean"], pixels.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(prepared["std"], pixels.std((0, 1, 2)), atol=1e-9)


def test_grey_pictures_make_one_channel_and_are_not_flipped(byhand, tmp_path):
    run = trained_on(images_in(tmp_path / "grey", grey=True), byhand, "lenet5")
    record = run.recipe()
    assert record["network"]["options"] == {"num_classes": 2, "in_channels": 1}
    assert record["input_shape"] == [1, 8, 8]
    assert (record["preparation"]["size"], record["preparation"]["fit"]) == (32, "resize")  # all that LeNet-5 takes
    assert record["settings"]["flip"] is False
    assert own_recipe("resnet20", empty(3, 32)).plan("fast").settings.flip
    assert not own_recipe("resnet20", empty(1, 28, 10, "mnist")).plan("fast").settings.flip
    assert own_recipe("resnet20", empty(1, 28, 10, "fashion-mnist")).plan("fast").settings.flip


FAMILIES = (
    "softmax-regression", "mlp", "lenet5", "lenet5-bn", "alexnet", "alexnet2012", "vgg11", "vgg16_bn", "nin",
    "googlenet", "resnet18", "resnext50_32x4d", "resnet20", "preact_resnet20", "densenet121", "densenet_cifar",
    "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small",
)  # fmt: skip


@pytest.mark.parametrize("network", FAMILIES)
@pytest.mark.parametrize(("channels", "size"), [(1, 6), (3, 65)])
def test_each_family_is_built_and_its_images_are_resized_so_that_it_takes_them(network, channels, size):
    chosen = own_recipe(network, empty(channels, size))
    settings = chosen.plan("best").settings
    pixels = settings.preparation.size or size
    with torch.device("meta"), torch.no_grad():
        model = models.build(network, **chosen.options).eval()
        assert model(torch.empty(2, channels, pixels, pixels)).shape == (2, 3)
    assert ("small" in chosen.options) == ("small" in models.network(network).options() and pixels <= 64)
    assert settings.shift < pixels


@pytest.mark.parametrize(
    ("network", "channels", "given", "size"),
    [("alexnet", 3, 8, 15), ("lenet5", 1, 28, 32), ("lenet5", 3, 64, 32), ("nin", 3, 65, 67), ("resnet18", 3, 8, None)],
)
def test_images_that_are_too_small_are_brought_to_the_least_size_that_the_network_takes(network, channels, given, size):
    prepared = own_recipe(network, empty(channels, given)).plan("fast").settings.preparation
    assert prepared.size == size


@pytest.mark.parametrize(("network", "size", "least"), [("alexnet", 8, 15), ("lenet5", 28, 32), ("nin", 3, 4)])
def test_a_size_that_the_network_does_not_take_is_refused_with_the_smallest(
    network, size, least, refused, tmp_path, here
):
    folder = images_in(tmp_path / "sky")
    said = refused("train", "--network", network, "--dataset", f"image-folder:{folder}", "--size", size)
    assert f"{least} × {least}" in said
    assert list(here.iterdir()) == []


def test_a_given_size_is_what_the_network_gets(byhand, tmp_path):
    run = trained_on(images_in(tmp_path / "sky", size=20), byhand, "resnet20", "--size", 9)
    assert run.recipe()["preparation"]["size"] == 9
    assert run.prepare(torch.zeros(1, 3, 20, 20, dtype=torch.uint8)).shape == (1, 3, 9, 9)


def test_fewer_images_are_seen_more_often():
    epochs = [own_recipe("mlp", empty(1, 4, n=n)).plan("fast").settings for n in (50, 2_000, 40_000)]
    assert [one.epochs for one in epochs] == [40, 20, 5]
    assert [one.batch_size for one in epochs] == [16, 64, 64]
    assert own_recipe("mlp", empty(1, 4, n=3)).plan("fast").settings.batch_size == 3


def test_an_image_of_one_colour_throughout_has_a_preparation_too():
    assert own_recipe("mlp", empty(3, 4)).plan("fast").settings.preparation == Preparation(
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )


def test_points_go_to_the_network_for_points(byhand, refused):
    said = byhand("train", "--network", "linear-regression", "--dataset", "synthetic-linear", *QUICK, "--json")
    assert said.records[0]["max_weight_error"] < 0.5
    for network, dataset in (("mlp", "synthetic-linear"), ("linear-regression", "digits")):
        assert "takes" in refused("train", "--network", network, "--dataset", dataset)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lenet5-digits", "--network", "lenet5", "--dataset", "digits"), "leave it out"),
        (("lenet5-digits", "--dataset", "digits"), "leave it out"),
        (("--network", "lenet5"), "give --dataset too"),
        (("--dataset", "digits"), "give --network too"),
        (("--network", "lenet6", "--dataset", "digits"), "did you mean 'lenet5'"),
        (("--network", "lenet5", "--dataset", "digit"), "did you mean 'digits'"),
        (("--network", "lenet5", "--dataset", "digits", "--plan", "book"), "known: best, fast"),
        (("--network", "lenet5", "--dataset", "digits", "--size", 0), "1 to 4096"),
        (("--network", "lenet5", "--dataset", "image-folder"), "image-folder:PATH"),
        (("--network", "lenet5", "--dataset", "image-folder:nowhere"), "does not exist"),
        (("--network", "lenet5", "--dataset", "digits", "--freeze"), "--from"),
        (("--network", "lenet5", "--dataset", "digits", "--body-lr", 2), "body_lr=2.0"),
        (("--network", "lenet5", "--dataset", "digits", "--from", "none.pth"), "none.pth"),
        (("lenet5-digits", "--freeze", "--body-lr", 0.5), "body_lr"),
        (("lenet5-digits", "--size", 32), "a recipe has its own"),
        (("--network", "lenet5", "--dataset", "image-folder:x", "--data-dir", "y"), "leave out"),
    ],
)
def test_names_that_do_not_fit_together_are_refused(arguments, said, refused, here):
    assert said in refused("train", *arguments)
    assert list(here.iterdir()) == []


# The run afterwards


def test_a_run_of_ones_own_images_can_be_measured_asked_drawn_compared_and_exported(byhand, tmp_path):
    folder = images_in(tmp_path / "sky", count=20)
    run = trained_on(folder, byhand, "mlp", "--epochs", 8)
    assert run.result()["accuracy"] == 1.0  # bright and dark are not hard to tell
    assert byhand("evaluate", run.path, "--json").records[0]["accuracy"] == 1.0
    asked = byhand("predict", run.path, folder / "night" / "003.png", folder / "day" / "004.png", "--json").records
    assert [one["name"] for one in asked] == ["night", "day"]
    assert byhand("plot", run.path).code == 0
    assert {path.stem for path in (run.path / "figures").iterdir()} >= {"loss", "accuracy", "confusion", "mistakes"}
    assert byhand("compare", run.path, "--json").records[0]["recipe"] == "mlp-on-sky"
    assert byhand("export", run.path, "--to", "safetensors").code == 0


@pytest.mark.parametrize("grey", [False, True])
def test_a_picture_is_asked_about_as_the_folder_was_read(grey, byhand, tmp_path):
    folder = images_in(tmp_path / "sky", size=80, grey=grey, suffix="jpg")
    for path in sorted(folder.rglob("*.jpg"))[:12]:  # half of them small, so that the others are decoded at a quarter
        Image.open(path).resize((16, 24)).save(path)
    run = trained_on(folder, byhand)
    images = jobs.dataset_of(run).test_images
    expected = run.predict(images)
    found = [
        one
        for one in byhand("predict", run.path, *sorted(folder.rglob("*.jpg")), "--json").records
        if any(
            one["top"][0]["probability"] == pytest.approx(float(row.max()), rel=1e-6)
            and one["label"] == int(row.argmax())
            for row in expected
        )
    ]
    assert len(found) >= len(images)


@pytest.mark.parametrize("grey", [False, True])
def test_a_picture_is_drawn_as_the_folder_was_read(grey, byhand, tmp_path):
    folder = images_in(tmp_path / "sky", size=20, grey=grey)
    for path in sorted(folder.rglob("*.png"))[:12]:  # half of them small, so that the others are made smaller
        Image.open(path).resize((8, 12)).save(path)
    run = trained_on(folder, byhand)
    dataset = jobs.dataset_of(run)
    read = torch.cat([dataset.train_images, dataset.test_images])
    for shown in images_of(run, dataset, sorted(folder.rglob("*.png"))):
        assert (shown.image == read).flatten(1).all(1).any(), shown.name


def test_a_training_on_ones_own_images_goes_on_bit_for_bit(tmp_path):
    folder = images_in(tmp_path / "sky")
    how = {"network": "lenet5-bn", "dataset": f"image-folder:{folder}", "epochs": 3, "threads": 1, "hold_out": 0.2}
    whole = library.train(**how, runs_dir=tmp_path / "whole")
    left = jobs.start(**how, runs_dir=tmp_path / "left")
    next(iter(left))
    resumed = jobs.resume(left.run.path)
    assert len(list(resumed)) == 2
    resumed.finish()
    for name, value in whole.weights().items():
        assert torch.equal(value, resumed.run.weights()[name]), name
    assert resumed.run.result()["loss"] == whole.result()["loss"]


def test_a_folder_that_was_moved_is_asked_for_and_found_again_and_other_images_are_refused(byhand, refused, tmp_path):
    folder = images_in(tmp_path / "sky")
    run = trained_on(folder, byhand)
    before = byhand("evaluate", run.path, "--json").records[0]["loss"]
    folder.rename(tmp_path / "heaven")
    assert "--data-dir" in refused("evaluate", run.path)
    assert byhand("evaluate", run.path, "--data-dir", tmp_path / "heaven", "--json").records[0]["loss"] == before
    left = jobs.start(network="mlp", dataset=f"image-folder:{tmp_path / 'heaven'}", epochs=2, threads=1)
    picture(90, seed=999).save(tmp_path / "heaven" / "day" / "new.png")
    assert "other data" in refused("resume", left.run.path)


def test_a_data_set_by_name_trains_any_network_too(byhand, monkeypatch):
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name))
    said = byhand("train", "--network", "lenet5-bn", "--dataset", "mnist", *QUICK, "--json")
    assert said.records[0]["recipe"] == "lenet5-bn-on-mnist"
    assert Run.open(said.records[0]["run"]).recipe()["class_names"] == list(data.entry("mnist").class_names)


# Heads in the middle


def test_auxiliary_heads_count_03_of_their_loss_in_either_hand():
    generator = torch.Generator().manual_seed(0)
    three = tuple(torch.randn(5, 4, generator=generator, requires_grad=True) for _ in range(3))
    targets = torch.tensor([0, 3, 1, 2, 2])
    logits, first, second = (F.cross_entropy(one, targets, label_smoothing=0.1) for one in three)
    for by_hand in (True, False):
        settings = Settings(epochs=1, batch_size=5, lr=0.1, label_smoothing=0.1, by_hand=by_hand)
        found = loss_of("classification", three, targets, settings)
        torch.testing.assert_close(found, logits + 0.3 * first + 0.3 * second)
    assert int(correct_of("classification", three, targets)) == int((three[0].argmax(1) == targets).sum())


def test_googlenet_trains_by_either_hand_alike_and_so_do_its_auxiliary_heads():
    dataset = made("cifar10", num_train=8)
    dataset = Dataset("cifar10", dataset.train_images[..., :16, :16], dataset.train_labels, *[dataset.train_images] * 2)
    after = []
    for step in (partial(Step), DeviceStep):
        for by_hand in (False, True) if step is not DeviceStep else (False,):
            options = {"num_classes": 10, "small": True, "width": 0.1, "dropout": 0.0, "dropout_aux": 0.0}
            settings = Settings(epochs=1, batch_size=8, lr=0.1, by_hand=by_hand)
            state = State.new(lambda options=options: models.googlenet(**options), settings, CPU)
            before = copy.deepcopy(state.library.state_dict())
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("byhand.training.fit.step_for", step)
                (epoch,) = fit(state, dataset)
            now = state.library.state_dict()
            assert not torch.equal(before["aux1.fc2.weight"], now["aux1.fc2.weight"])
            assert epoch.accuracy is not None
            after.append((epoch.loss, now))
    first, hand = (now for _, now in after[:2])
    body = [key for key, _ in state.library.named_parameters() if not key.startswith(("aux", "fc"))]
    for loss, now in after[1:]:
        assert loss == pytest.approx(after[0][0], rel=1e-5)
        for key in now.keys() - (body if now is hand else []):
            torch.testing.assert_close(
                now[key], first[key], rtol=1e-3, atol=1e-4, msg=lambda text, k=key: f"{k}: {text}"
            )
    # Some of the body's units are so near 0 that rounding decides whether they let the gradient through, and each that
    # does moves the change of the weights by a hundredth.
    change, other = (torch.cat([(now[key] - before[key]).flatten() for key in body]) for now in (first, hand))
    assert float((other - change).norm()) < 0.1 * float(change.norm())


# Fine-tuning


@pytest.fixture
def weights(tmp_path):
    """A file with the weights of a ResNet-20 of five classes, and what it holds."""
    torch.manual_seed(7)
    model = models.resnet20(num_classes=5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    torch.save(model.state_dict(), tmp_path / "five.pth")
    return tmp_path / "five.pth", {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("hand", ["--by-hand", "--by-library"])
def test_freeze_trains_the_head_alone_and_keeps_the_running_statistics(hand, weights, byhand, tmp_path):
    path, before = weights
    folder = images_in(tmp_path / "sky")
    said = byhand(
        "train", "--network", "resnet20", "--dataset", f"image-folder:{folder}", "--from", path, "--freeze", hand,
        *QUICK, "--json",
    )  # fmt: skip
    assert said.code == 0, said
    assert "the head (fc) is new: 5 classes in the file, 2 in the network" in said.err
    run = Run.open(said.records[0]["run"])
    after = run.weights()
    assert [key for key in before if not key.startswith("fc.") and not torch.equal(before[key], after[key])] == []
    assert after["fc.weight"].shape == (2, 64)
    record = run.recipe()
    assert record["settings"]["freeze"] is True
    assert record["weights"]["source"] == str(path)
    assert record["weights"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_freeze_the_body_learns_and_the_file_is_not_needed_to_go_on(weights, tmp_path):
    path, before = weights
    how = {"network": "resnet20", "dataset": f"image-folder:{images_in(tmp_path / 'sky')}", "weights": path}
    how |= {"epochs": 2, "threads": 1, "body_lr": 0.1}
    whole = library.train(**how, runs_dir=tmp_path / "whole")
    left = jobs.start(**how, runs_dir=tmp_path / "left")
    next(iter(left))
    path.unlink()
    resumed = jobs.resume(left.run.path)
    list(resumed)
    resumed.finish()
    for name, value in whole.weights().items():
        assert torch.equal(value, resumed.run.weights()[name]), name
    assert not torch.equal(whole.weights()["conv1.weight"], before["conv1.weight"])
    assert (whole.weights()["bn1.running_mean"] - before["bn1.running_mean"]).abs().max() > 1e-3


@pytest.mark.parametrize("network", ["lenet5", "lenet5-bn"])
@pytest.mark.parametrize("way", ["by hand", "by library", "on a device"])
def test_body_lr_is_the_share_of_the_step_that_the_body_takes(network, way, monkeypatch):
    """Of plain SGD a step is lr times the gradient, so a tenth of the lr is a tenth of the step."""
    dataset = made("mnist", num_train=12)
    if way == "on a device":
        monkeypatch.setattr("byhand.training.fit.step_for", DeviceStep)
    moved = {}
    for share in (1.0, 0.25, 0.0):
        settings = Settings(
            epochs=1, batch_size=12, lr=0.1, body_lr=share, by_hand=way == "by hand", preparation=Preparation(32, "pad")
        )
        state = State.new(lambda: models.build(network), settings, CPU)
        before = copy.deepcopy(dict(state.library.named_parameters()))
        list(fit(state, dataset))
        moved[share] = {key: value.detach() - before[key] for key, value in state.library.named_parameters()}
    head = f"{head_of(models.build(network))}."
    assert head in ("classifier.5.", "classifier.7.")
    for key, whole in moved[1.0].items():
        assert whole.abs().max() > 0 or "bias" in key  # before batch normalisation a bias moves nothing
        torch.testing.assert_close(moved[0.25][key], whole if key.startswith(head) else whole / 4, rtol=1e-3, atol=1e-7)
        assert key.startswith(head) or not moved[0.0][key].any()


@pytest.mark.parametrize("by_hand", [True, False])
def test_freeze_stands_still_for_the_running_mean_of_the_weights_and_through_epochs_with_a_test(by_hand):
    settings = Settings(epochs=3, batch_size=8, lr=0.05, weight_decay=0.1, freeze=True, ema=0.9, hold_out=0.25)
    settings = settings.replace(by_hand=by_hand, preparation=Preparation(32, "pad"))
    state = State.new(lambda: models.build("lenet5-bn"), settings, CPU)
    before = copy.deepcopy(state.library.state_dict())
    assert len(list(fit(state, made("mnist", num_train=40).hold_out(0.25)))) == 3
    for after in (state.library.state_dict(), state.kept.state_dict()):
        changed = [key for key in before if not torch.equal(before[key], after[key])]
        assert changed == ["classifier.7.weight", "classifier.7.bias"]


def test_the_form_of_the_network_is_that_of_the_weights():
    for small in (True, False):
        for network in ("resnet18", "alexnet", "vgg11", "densenet121", "googlenet"):
            with torch.device("meta"):
                weights = models.build(network, num_classes=7, small=small).state_dict()
            assert own_recipe(network, empty(3, 32), None, weights).options.get("small", False) is small, network
    assert own_recipe("resnet18", empty(3, 32)).options["small"] is True


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: models.resnet32().state_dict(), "unexpected"),
        (lambda: models.resnet20(in_channels=1).state_dict(), "conv1.weight"),
        (lambda: [1, 2], "holds no weights"),
    ],
)
def test_weights_of_another_network_are_refused_and_no_run_begins(content, said, refused, tmp_path, here):
    torch.save(content(), tmp_path / "other.pth")
    folder = images_in(tmp_path / "sky")
    words = refused(
        "train", "--network", "resnet20", "--dataset", f"image-folder:{folder}", "--from", tmp_path / "other.pth"
    )
    assert said in words
    assert list(here.iterdir()) == []


def test_weights_are_not_overwritten_by_a_plan_that_draws_its_own(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name))
    torch.save(models.mlp().state_dict(), tmp_path / "mlp.pth")
    assert "init='normal'" in refused(
        "train", "mlp-fashion", "--plan", "book", "--batch-size", 16, "--from", tmp_path / "mlp.pth"
    )


# Bad input


def test_a_single_example_left_over_joins_the_batch_before_it():
    for n, batch_size in ((65, 64), (129, 64), (130, 64), (64, 64), (3, 2), (7, 3), (5, 1), (1, 1), (1, 4)):
        parts = batches(torch.arange(n), batch_size)
        assert torch.cat(parts).tolist() == list(range(n))
        assert len(parts) == num_batches(n, batch_size)
        assert all(len(part) == batch_size for part in parts[:-1])
        assert 1 <= len(parts[-1]) <= batch_size + 1
        assert len(parts[-1]) > 1 or batch_size == 1 or n == 1
    assert [len(part) for part in batches(torch.arange(130), 64)] == [64, 64, 2]
    assert [len(part) for part in batches(torch.arange(129), 64)] == [64, 65]


@pytest.mark.parametrize("network", ["lenet5-bn", "resnet18", "mobilenet_v3_small"])
def test_one_image_more_than_a_batch_is_trained_on_where_the_last_maps_are_1_by_1(network, byhand, tmp_path):
    folder = tmp_path / "sky"
    for part, count in (("train", 5), ("test", 2)):
        images_in(folder / part, count=count)
    picture(90, seed=77).save(folder / "train" / "day" / "more.png")
    run = trained_on(folder, byhand, network, "--batch-size", 10)
    assert len(jobs.dataset_of(run).train_images) == 11
    assert run.result()["loss"] > 0


@pytest.mark.parametrize("network", ["lenet5-bn", "resnet18", "vgg11_bn"])
def test_batches_of_one_are_refused_where_normalisation_has_one_value_a_channel(network, refused, tmp_path, here):
    folder = images_in(tmp_path / "sky")
    dataset = f"image-folder:{folder}"
    said = refused("train", "--network", network, "--dataset", dataset, "--batch-size", 1, "--threads", 1)
    assert "batch_size=1" in said
    assert "at least 2" in said
    assert list(here.iterdir()) == []


def test_parts_of_one_example_are_refused_where_normalisation_has_one_value_a_channel_and_parts_are_even(
    refused, tmp_path, here
):
    folder = images_in(tmp_path / "sky", count=12)  # 22 for training: 15 and 7
    asked = ("--network", "lenet5-bn", "--dataset", f"image-folder:{folder}", "--batch-size", 15, "--threads", 1)
    said = refused("train", *asked, "--set", "accumulate=4")
    assert "accumulate=4" in said
    assert "choose fewer parts" in said
    assert list(here.iterdir()) == []
    how = {"network": "lenet5-bn", "dataset": f"image-folder:{folder}", "batch_size": 15, "threads": 1}
    left = jobs.start(**how, epochs=1, accumulate=3)
    sizes = []
    left.state.model.register_forward_hook(lambda layer, inputs, output: sizes.append(len(output)))
    next(iter(left))
    assert sizes[:6] == [5, 5, 5, 3, 2, 2]


def test_batches_of_one_are_no_fault_elsewhere(byhand, tmp_path):
    folder = images_in(tmp_path / "sky", count=3)
    assert trained_on(folder, byhand, "mlp", "--batch-size", 1).result()["loss"] > 0


def test_a_folder_with_one_class_or_none_or_no_pictures_is_refused(refused, tmp_path, here):
    for number, (classes, said) in enumerate(((("day",), "only one folder"), ((), "no folders"))):
        folder = tmp_path / f"few{number}"
        folder.mkdir()
        for name in classes:
            (folder / name).mkdir()
            picture(9).save(folder / name / "a.png")
        assert said in refused("train", "--network", "mlp", "--dataset", f"image-folder:{folder}")
    (folder / "day").mkdir()
    (folder / "night").mkdir()
    assert "holds no picture" in refused("train", "--network", "mlp", "--dataset", f"image-folder:{folder}")
    for name in ("day", "night"):
        (folder / name / "a.png").write_bytes(b"no picture")
    assert "can be read" in refused("train", "--network", "mlp", "--dataset", f"image-folder:{folder}")
    assert list(here.iterdir()) == []


def test_pictures_of_all_modes_sizes_and_faults_train_and_what_was_left_out_is_said_once(byhand, refused, tmp_path):
    folder = images_in(tmp_path / "sky", size=12)
    day = folder / "day"
    picture(180, 20).convert("CMYK").save(day / "cmyk.jpg")
    picture(180, 9).convert("P").save(day / "palette.png")
    picture(180, 30).convert("RGBA").save(day / "clear.png")
    picture(180, 31, grey=True).convert("1").save(day / "one-bit.png")
    Image.fromarray(np.full((14, 10), 50_000, np.uint16)).save(day / "sixteen.png")
    picture(180, 16).save(day / "moving.gif", save_all=True, append_images=[picture(20, 16)])
    picture(180, 40).resize((7, 90)).save(day / "tall.png")
    whole = tmp_path / "whole.jpg"
    picture(180, 60).save(whole)
    (day / "truncated.jpg").write_bytes(whole.read_bytes()[:900])
    (day / "text.png").write_text("not a picture")
    said = byhand("train", "--network", "resnet20", "--dataset", f"image-folder:{folder}", *QUICK, "--json")
    assert said.code == 0, said
    warned = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert "2 of 29 files left out" in warned[0]
    assert all(name in warned[0] for name in ("day/truncated.jpg", "day/text.png", "day/moving.gif"))
    run = Run.open(said.records[0]["run"])
    assert len(jobs.dataset_of(run).train_images) + len(jobs.dataset_of(run).test_images) == 27
    for name in ("cmyk.jpg", "palette.png", "clear.png", "one-bit.png", "sixteen.png", "moving.gif", "tall.png"):
        assert byhand("predict", run.path, day / name, "--json").records[0]["name"] in ("day", "night")
    for name in ("truncated.jpg", "text.png", "nothing.png"):
        assert name in refused("predict", run.path, day / name)


def test_more_images_a_step_than_there_are_is_refused(refused, tmp_path, here):
    folder = images_in(tmp_path / "sky", count=2)
    said = refused("train", "--network", "mlp", "--dataset", f"image-folder:{folder}", "--batch-size", 64)
    assert re.search(r"batch_size=64 is more than the \d training examples", said)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"network": "lenet5"},
        {"dataset": "digits"},
        {"recipe": "lenet5-digits", "network": "lenet5", "dataset": "digits"},
        {"network": "lenet5", "dataset": "digits", "size": "32"},
        {"network": "lenet5", "dataset": "digits", "freeze": 1},
        {"network": "lenet5", "dataset": "digits", "freeze": True},
        {"network": "lenet5", "dataset": "digits", "body_lr": -0.1},
    ],
)
def test_what_the_command_line_refuses_python_refuses_too(arguments, here):
    with pytest.raises(SettingsError) as error:
        library.train(**arguments)
    assert "\n" not in str(error.value)
    assert list(here.iterdir()) == []


def test_recipe_json_is_plain(byhand, tmp_path):
    run = trained_on(images_in(tmp_path / "sky"), byhand)
    assert json.loads((run.path / "recipe.json").read_text()) == run.recipe()


@pytest.mark.parametrize("parts", [("val", "test"), ("test",)])
def test_a_test_set_without_a_training_set_is_one_line(parts, tmp_path):
    for part in parts:
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / part / name / "1.png")
    with pytest.raises(DataError, match="but no train beside"):
        data.load(f"image-folder:{tmp_path / 'pictures'}")


def test_a_message_never_obeys_what_a_name_holds():
    from byhand.cli.output import one_line

    assert one_line("broken: a\nb\x1b[2Jc.jpg ü") == "broken: a b\\x1b[2Jc.jpg ü"


@pytest.mark.parametrize(("network", "size"), [("resnet20", 320), ("mobilenet_v2", 512)])
def test_any_size_that_a_network_takes_can_be_asked_for(network, size):
    chosen = own_recipe(network, made("cifar10", num_train=20), size)
    assert chosen.plan("fast").settings.preparation.size == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "100000"), "size=100000 must be a whole number of pixels, 1 to 4096"),
        (("--body-lr", "0.5"), "body_lr=0.5 without weights would teach a new body more slowly"),
        (("--set", "lr=0.1", "--set", "lr=0.2"), "--set gives lr, lr; give each of them once"),
    ],
)
def test_what_would_have_no_effect_or_no_end_is_one_line(arguments, message):
    import subprocess
    import sys

    command = [sys.executable, "-m", "byhand", "train", "--network", "resnet20", "--dataset", "digits", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_says_what_it_found(byhand, tmp_path):
    folder = images_in(tmp_path / "sky", ("dawn", "day", "night"))
    said = byhand("train", "--network", "mlp", "--dataset", f"image-folder:{folder}", "--epochs", 1, "--no-plots")
    assert re.search(r"\d+ training and \d+ test images of image-folder:.*sky; 3 classes: dawn, day, night", said.err)


def test_a_run_is_not_measured_or_drawn_on_images_that_have_changed_unless_asked(byhand, refused, here):
    folder = images_in(here / "mine")
    run = trained_on(folder, byhand)
    before = byhand("evaluate", run.path, "--json").records[0]["accuracy"]
    (folder / "night" / "000.png").unlink()
    for command in (("evaluate", run.path), ("plot", run.path, "mistakes")):
        assert "was trained on other data than" in refused(*command)
    asked = byhand("evaluate", run.path, "--data-dir", folder, "--json")
    assert asked.code == 0
    assert "these measures are not those of its test set" in asked.err
    (folder / "night").rename(folder / "a-night")  # would be the first class now
    assert "was trained on the classes day, night" in refused("evaluate", run.path, "--data-dir", folder)
    (folder / "a-night").rename(folder / "night")
    picture(50, 8, 100).save(folder / "night" / "000.png")  # as it was
    assert byhand("evaluate", run.path, "--json").records[0]["accuracy"] == before


def test_weights_that_are_no_numbers_are_refused_by_the_name_of_the_layer(byhand, refused, here):
    folder = images_in(here / "mine")
    state = models.build("resnet20").state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, "nan.pth")
    told = refused("train", "--network", "resnet20", "--dataset", f"image-folder:{folder}", *QUICK, "--from", "nan.pth")
    assert "infinite or NaN in layer1.0.conv1.weight" in told


def test_settings_that_cannot_be_are_told_with_what_the_plan_has(refused, here):
    folder = images_in(here / "mine")
    train = ("train", "--network", "mlp", "--dataset", f"image-folder:{folder}", *QUICK)
    assert "schedule='one-cycle'" in refused(*train, "--set", "milestones=0.5")
    assert "cutout=40 must be below the size of the images" in refused(*train, "--set", "cutout=40")
    assert "at most 1000.0, or 0 for none" in refused(*train, "--set", "mixup=-1")


def test_a_data_set_that_is_a_path_is_told_how_it_is_written(here):
    with pytest.raises(SettingsError, match="'image-folder:mine'"):
        library.train(network="mlp", dataset=images_in(here / "mine").relative_to(here))

"""What a training can be asked for beside the source's own settings, each against torch or a loop written out."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import made
from torch import nn
from torch.nn import functional as F

from byhand import assembly, jobs, models
from byhand.data import mixing
from byhand.data.preparation import Preparation
from byhand.errors import SettingsError
from byhand.optim.clipping import clip_gradients
from byhand.recipes import recipe
from byhand.training.evaluate import evaluate
from byhand.training.fit import changed, fit, mixed
from byhand.training.settings import Settings
from byhand.training.state import State
from byhand.training.steps import step_for

CPU = torch.device("cpu")
PLAIN = Settings(epochs=2, batch_size=16, lr=0.05, seed=3)
ALL_CHANGES = {
    "flip": True,
    "vertical_flip": True,
    "shift": 2,
    "crop": 0.5,
    "colour": 0.3,
    "erase": 0.5,
    "cutout": 5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


def new(settings, network="mlp", **options):
    return State.new(lambda: models.build(network, **options), settings, CPU)


def weights(state):
    return {name: value.clone() for name, value in state.library.state_dict().items()}


def batch(n=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (n,), generator=generator)


def largest_difference(a, b):
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


# Gradients


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_clipping_gives_torchs_gradients_and_norm(max_norm):
    torch.manual_seed(0)
    mine = [nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(2))]
    theirs = [nn.Parameter(torch.zeros_like(one)) for one in mine]
    for a, b in zip(mine[:2], theirs[:2], strict=True):  # the third has none
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
    norm = clip_gradients(mine, max_norm)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(mine[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_there_may_be_no_gradient_to_clip():
    assert float(clip_gradients([nn.Parameter(torch.ones(2))], 1.0)) == 0


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_clipped_step_moves_the_weights_by_lr_times_the_limit(by_hand):
    state = new(PLAIN.replace(clip=1e-3, by_hand=by_hand))
    before = torch.cat([one.detach().flatten().clone() for one in state.trained])
    images, labels = batch()
    step_for(state, "classification")(state.settings.prepared(images), labels, 0.5)
    after = torch.cat([one.detach().flatten() for one in state.trained])
    assert float((after - before).norm()) == pytest.approx(0.5 * 1e-3, rel=1e-2)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("parts", [2, 3, 16, 50])
def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch(parts, by_hand):
    data = made("fashion-mnist", num_train=70)  # 70 = 4 · 16 + 6: the last batch is smaller
    whole, divided = (new(PLAIN.replace(by_hand=by_hand, accumulate=n)) for n in (1, parts))
    start = weights(whole)
    a, b = list(fit(whole, data)), list(fit(divided, data))
    assert largest_difference(weights(whole), weights(divided)) < 1e-6
    assert largest_difference(weights(whole), start) > 1e-3
    assert a[-1].loss == pytest.approx(b[-1].loss, rel=1e-5)
    assert a[-1].accuracy == b[-1].accuracy


# Before a normalisation a bias has no gradient but rounding, which AdamW would make steps of: it gets another network.
@pytest.mark.parametrize(
    ("rule", "network", "options"), [("sgd", "lenet5-bn", {"image_size": 28}), ("adamw", "mlp", {})]
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_without_decay_all_biases_and_scales_of_normalisation_do_not_decay(rule, network, options, by_hand):
    settings = PLAIN.replace(optimizer=rule, weight_decay=0.5, decay_all=False, by_hand=by_hand)
    state = new(settings, network, **options)
    reference = models.build(network, **options)
    reference.load_state_dict(state.library.state_dict())
    decayed = [one for one in reference.parameters() if one.ndim in (2, 4)]  # linear layers and convolutions
    left = [one for one in reference.parameters() if one.ndim == 1]
    family = torch.optim.SGD if rule == "sgd" else torch.optim.AdamW
    optimizer = family([{"params": decayed, "weight_decay": 0.5}, {"params": left, "weight_decay": 0.0}], lr=0.05)
    images, labels = batch()
    for _ in range(3):
        step_for(state, "classification")(settings.prepared(images), labels, 0.05)
        optimizer.zero_grad()
        F.cross_entropy(reference(images.float() / 255), labels).backward()
        optimizer.step()
    for name, value in reference.state_dict().items():
        away = (weights(state)[name] - value).abs() > 1e-4 + 1e-3 * value.abs()
        assert away.float().mean() < 0.01, name  # AdamW takes the sign of a gradient that is rounding alone
    assert len(decayed) * len(left) > 0


# Images


def test_each_change_of_the_images_changes_them_and_keeps_their_form():
    images, _ = batch()
    for name in ("crop", "colour", "erase", "cutout", "shift", "flip"):
        settings = PLAIN.replace(**{name: ALL_CHANGES[name]})
        found = changed(images, settings, torch.Generator().manual_seed(0))
        assert found.dtype == torch.uint8
        assert found.shape == images.shape
        assert not torch.equal(found, images), name
    assert torch.equal(changed(images, PLAIN, torch.Generator()), images)


def test_a_square_is_cut_out_in_the_mean_colour():
    images = torch.full((8, 1, 28, 28), 255, dtype=torch.uint8)
    settings = PLAIN.replace(cutout=6, preparation=Preparation(mean=0.2, std=0.5))
    found = changed(images, settings, torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {51, 255}
    assert all(0 < int((image == 51).sum()) <= 36 for image in found)


def test_mixed_images_have_the_mixed_labels_of_the_same_draws():
    images, labels = batch()
    for name, function in (("mixup", mixing.mixup), ("cutmix", mixing.cutmix)):
        found = mixed(images, labels, 10, PLAIN.replace(**{name: 0.7}), torch.Generator().manual_seed(4))
        expected = function(images, labels, 10, 0.7, generator=torch.Generator().manual_seed(4))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        torch.testing.assert_close(found[1].sum(1), torch.ones(16))


def test_with_both_mixtures_a_coin_takes_one_for_each_batch():
    images, labels = batch()
    settings, generator = PLAIN.replace(mixup=1.0, cutmix=1.0), torch.Generator().manual_seed(0)
    kinds = []
    for _ in range(40):
        found, _ = mixed(images, labels, 10, settings, generator)
        # CutMix takes every pixel from some image of the batch at the same place; mixup makes new grey levels.
        taken = (found.unsqueeze(1) == images.unsqueeze(0)).any(1).float().mean()
        kinds.append(bool(taken > 0.99))
    assert 8 < sum(kinds) < 32


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_step_on_mixed_images_follows_torchs_gradient_of_the_mixed_labels(by_hand):
    settings = PLAIN.replace(mixup=0.4, label_smoothing=0.1, by_hand=by_hand)
    state = new(settings)
    reference = models.build("mlp")
    reference.load_state_dict(state.library.state_dict())
    images, labels = batch()
    inputs, targets = mixed(images, labels, 10, settings, torch.Generator().manual_seed(1))
    step_for(state, "classification")(settings.prepared(inputs), targets, 0.05)
    F.cross_entropy(reference(inputs.float() / 255), targets, label_smoothing=0.1).backward()
    for mine, theirs in zip(state.trained, reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_training_with_every_change_goes_on_bit_for_bit(by_hand):
    data = made("fashion-mnist", num_train=70)
    settings = PLAIN.replace(by_hand=by_hand, ema=0.9, **ALL_CHANGES)
    whole, first = new(settings), new(settings)
    list(fit(whole, data))
    for _ in fit(first, data):
        break
    second = new(settings)
    second.load_state_dict(first.state_dict())
    list(fit(second, data))
    assert largest_difference(weights(whole), weights(second)) == 0


# Measuring, and when to end


def test_a_test_flip_is_the_mean_of_the_logits_of_an_image_and_its_mirror():
    model = models.build("mlp").eval()
    images, labels = batch(40)
    measured = evaluate(model, images, labels, PLAIN.replace(test_flip=True, by_hand=False))
    inputs = images.float() / 255
    with torch.no_grad():
        logits = (model(inputs) + model(torch.flip(inputs, [3]))) / 2
        assert measured.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
        assert measured.accuracy == int((logits.argmax(1) == labels).sum()) / 40
        assert measured.loss != pytest.approx(float(F.cross_entropy(model(inputs), labels)), rel=1e-4)


def test_patience_ends_the_training_and_keeps_the_weights_of_the_best_epoch():
    data = made("fashion-mnist", num_train=70).hold_out(0.3)
    state = new(PLAIN.replace(epochs=50, patience=3, hold_out=0.3, lr=0.2))
    scores, kept = [], []
    for epoch in fit(state, data):
        scores.append(epoch.validation_accuracy)
        kept.append(weights(state))
    best = scores.index(max(scores))
    assert len(scores) == best + 1 + 3
    assert state.ended
    state.take_best()
    assert largest_difference(weights(state), kept[best]) == 0
    assert largest_difference(kept[-1], kept[best]) > 0


def test_patience_survives_a_checkpoint():
    data = made("fashion-mnist", num_train=70).hold_out(0.3)
    settings = PLAIN.replace(epochs=50, patience=3, hold_out=0.3, lr=0.2)
    whole, first, second = new(settings), new(settings), new(settings)
    expected = [epoch.validation_accuracy for epoch in fit(whole, data)]
    for epoch in fit(first, data):
        if epoch.epoch == 2:
            break
    second.load_state_dict(first.state_dict())
    found = [epoch.validation_accuracy for epoch in fit(second, data)]
    assert found == expected[2:]
    whole.take_best()
    second.take_best()
    assert largest_difference(weights(whole), weights(second)) == 0


def test_the_result_of_an_early_end_tells_its_epochs_and_the_accuracy_of_the_weights_it_kept(tmp_path):
    run = jobs.train(
        "lenet5-digits", runs_dir=tmp_path, epochs=30, hold_out=0.3, patience=1, lr=0.05, batch_size=512, threads=1
    )
    result, history = run.result(), run.history()
    assert result["epochs"] == len(history) < 30
    assert result["accuracy"] == max(line["validation_accuracy"] for line in history)


def test_patience_without_held_out_images_is_refused():
    with pytest.raises(SettingsError, match="patience=2 looks at held-out examples; give hold_out"):
        PLAIN.replace(patience=2)


# Memory and precision


def test_channels_last_changes_the_order_in_memory_and_not_what_is_learned():
    data = made("fashion-mnist", num_train=70)
    settings = PLAIN.replace(by_hand=False, batch_size=35, lr=1e-3)
    plain, last = (new(settings.replace(channels_last=kind), "resnet20", in_channels=1) for kind in (False, True))
    assert last.library.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert settings.replace(channels_last=True).prepared(torch.zeros(2, 3, 8, 8)).stride() == (192, 1, 24, 3)
    start = weights(plain)
    assert largest_difference(start, weights(last)) == 0
    for state in (plain, last):
        list(fit(state, data))
    rounding, moved = (largest_difference(weights(plain), other) for other in (weights(last), start))
    assert rounding < moved / 100


def test_mixed_precision_computes_products_in_bfloat16_and_keeps_weights_and_loss_in_float32():
    state = new(PLAIN.replace(mixed_precision=True, by_hand=False))
    images, labels = batch()
    seen = []
    state.model[1].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    step = step_for(state, "classification")
    step(state.settings.prepared(images), labels, 0.05)
    assert seen == [torch.bfloat16]
    assert {one.dtype for one in state.trained} == {one.grad.dtype for one in state.trained} == {torch.float32}
    assert math.isfinite(state.loss_sum)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.cross_entropy(models_like(state, PLAIN)(images.float() / 255).float(), labels)
    assert state.loss_sum / 16 == pytest.approx(float(expected.detach()), rel=2e-2)


def models_like(state, settings):
    """The network as it was before its first step."""
    return new(settings.replace(by_hand=False)).library


def test_mixed_precision_by_hand_is_refused():
    with pytest.raises(SettingsError, match="mixed_precision=True is of the library's hand; give by_hand=False"):
        PLAIN.replace(mixed_precision=True)


@pytest.mark.parametrize(("native", "changes", "expected"), [
    (True, {}, True),
    (False, {}, False),
    (False, {"mixed_precision": True}, True),
    (True, {"mixed_precision": False}, False),
    (True, {"by_hand": True}, False),
])  # fmt: skip
def test_a_plan_has_mixed_precision_where_the_device_computes_it_and_a_user_everywhere(
    monkeypatch, native, changes, expected
):
    monkeypatch.setattr(assembly, "computes_bfloat16", lambda device: native)
    planned = recipe("resnet20-cifar10").plan("fast").settings
    assert planned.mixed_precision
    assert assembly.resolved(planned, changes, torch.device("cpu")).mixed_precision is expected


def test_on_a_gpu_a_plan_by_hand_goes_by_library_unless_asked(monkeypatch):
    monkeypatch.setattr(assembly, "computes_bfloat16", lambda device: True)
    planned = recipe("lenet5-mnist").plan("fast").settings
    assert planned.by_hand
    assert not assembly.resolved(planned, {}, torch.device("cuda")).by_hand
    assert assembly.resolved(planned, {"by_hand": True}, torch.device("cuda")).by_hand


def test_every_option_reaches_a_run_and_its_record(tmp_path):
    changes = {**ALL_CHANGES, "clip": 1.0, "accumulate": 2, "decay_all": False, "test_flip": True}
    del changes["shift"]
    run = jobs.train("lenet5-digits", runs_dir=tmp_path, epochs=1, batch_size=512, threads=1, **changes)
    recorded = Settings.of(run.recipe()["settings"])
    assert replace(recorded, device="auto").record().items() >= changes.items()


def test_large_images_are_measured_fewer_at_a_time():
    from byhand.training.evaluate import batch_for

    images = torch.zeros(1, 3, 28, 28, dtype=torch.uint8)
    assert batch_for(images, PLAIN) == 250
    assert batch_for(torch.zeros(1, 3, 112, 56), PLAIN) == 125
    assert batch_for(images, PLAIN.replace(preparation=Preparation(size=224, fit="resize"))) == 15
    assert batch_for(torch.zeros(1, 3, 5000, 5000), PLAIN) == 1
    assert batch_for(torch.zeros(7, 3), PLAIN) == 250  # the features of a regression

"""What a network costs, against hand counts, torch's own flop counter and published numbers."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import byhand.nn as by_hand_layers
from byhand import models
from byhand.errors import ShapeError
from byhand.models import FIRST, build
from byhand.models.cost import COLUMNS, Row, cells, layer_table, separated, total


def table(name, **options):
    entry = next(entry for entry in FIRST if entry.name == name)
    return layer_table(build(name, **options), entry.input_shape)


def flops_by_torch(model, input_shape):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, *input_shape))
    return counter.get_total_flops()


def test_lenet5_costs_what_a_hand_count_gives():
    rows = [row for row in table("lenet5") if row.parameters]
    found = [(row.kind, row.output_shape, row.parameters, row.multiply_adds) for row in rows]
    assert found == [
        ("Conv2d", (6, 28, 28), 6 * 25 + 6, 6 * 28 * 28 * 25),
        ("Conv2d", (16, 10, 10), 16 * 6 * 25 + 16, 16 * 10 * 10 * 6 * 25),
        ("Linear", (120,), 400 * 120 + 120, 400 * 120),
        ("Linear", (84,), 120 * 84 + 84, 120 * 84),
        ("Linear", (10,), 84 * 10 + 10, 84 * 10),
    ]
    whole = total(table("lenet5"))
    assert whole.parameters == 61_706
    assert whole.multiply_adds == 117_600 + 240_000 + 58_920
    assert whole.parameter_bytes == 4 * 61_706


def test_every_value_of_lenet5_that_is_kept_for_one_image_is_four_bytes():
    # C1 and its ReLU, S2, C3 and its ReLU, S4 and its flattened form, C5 and F6 with their ReLUs, the logits
    values = 2 * 6 * 28 * 28 + 6 * 14 * 14 + 2 * 16 * 10 * 10 + 2 * 16 * 5 * 5 + 2 * 120 + 2 * 84 + 10
    assert total(table("lenet5")).output_bytes == 4 * values


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("linear-regression", 4, 3),
        ("softmax-regression", 7_850, 7_840),
        ("mlp", 235_146, 784 * 256 + 256 * 128 + 128 * 10),
        ("lenet5", 61_706, 416_520),
    ],
)
def test_totals_equal_hand_counts_in_both_hands(name, parameters, multiply_adds):
    entry = next(entry for entry in FIRST if entry.name == name)
    for model in (build(name), by_hand_layers.by_hand(build(name))):
        whole = total(layer_table(model, entry.input_shape))
        assert (whole.parameters, whole.multiply_adds) == (parameters, multiply_adds)


@pytest.mark.parametrize("entry", FIRST, ids=lambda entry: entry.name)
def test_totals_of_every_network_agree_with_torch(entry):
    model = build(entry.name).eval()
    whole = total(layer_table(model, entry.input_shape))
    assert whole.parameters == sum(p.numel() for p in model.parameters())
    assert 2 * whole.multiply_adds == flops_by_torch(model, entry.input_shape)


@pytest.mark.parametrize(
    ("layer", "input_shape"),
    [
        (nn.Conv2d(6, 9, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), groups=3), (6, 11, 9)),
        (nn.Conv1d(4, 8, 3, groups=2), (4, 10)),
        (nn.Conv3d(2, 3, (1, 2, 3)), (2, 4, 5, 6)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 7)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 5)),
        (nn.Linear(5, 7, bias=False), (2, 3, 5)),
        (by_hand_layers.PHMLinear(12, 8, n=4), (12,)),
        (by_hand_layers.PHMLinear(12, 8, n=2), (5, 12)),
        (by_hand_layers.by_library(by_hand_layers.Conv2d(4, 6, 3, groups=2)), (4, 8, 8)),
    ],
    ids=str,
)
def test_multiply_adds_of_a_layer_are_half_the_flops_that_torch_counts(layer, input_shape):
    (row,) = layer_table(layer, input_shape)
    assert 2 * row.multiply_adds == flops_by_torch(layer, input_shape) > 0


def test_a_hypercomplex_layer_has_a_quarter_of_the_weights_and_its_rules():
    layer = by_hand_layers.PHMLinear(12, 8, n=4)
    for one in (layer, by_hand_layers.by_library(layer)):
        (row,) = layer_table(one, (12,))
        assert row.parameters == 12 * 8 // 4 + 4**3 + 8
        assert row.multiply_adds == 12 * 8 + 4 * 12 * 8
        assert "n=4" in row.detail


def test_alexnet_of_published_size_costs_what_is_published_for_it():
    alexnet = nn.Sequential(  # Krizhevsky (2014), one weird trick; torchvision's alexnet: 61,100,840 and 0.71 G
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(6), nn.Flatten(),
        nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(True),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True), nn.Linear(4096, 1000),
    )  # fmt: skip
    whole = total(layer_table(alexnet.to("meta"), (3, 224, 224)))
    assert whole.parameters == 61_100_840
    assert round(whole.multiply_adds / 1e9, 2) == 0.71


def test_a_shared_layer_is_counted_at_each_call_but_its_parameters_once():
    shared = nn.Linear(4, 4)
    first, relu, second = layer_table(nn.Sequential(shared, nn.ReLU(), shared), (4,))
    assert (first.parameters, first.multiply_adds, first.parameter_bytes) == (20, 16, 80)
    assert (second.parameters, second.multiply_adds, second.parameter_bytes) == (0, 16, 0)
    assert "called again" in second.detail
    assert "called again" not in first.detail
    assert relu.parameters == relu.multiply_adds == 0


def test_tied_weights_are_counted_once():
    encoder, decoder = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
    decoder.weight = encoder.weight
    rows = layer_table(nn.Sequential(encoder, decoder), (4,))
    assert [row.parameters for row in rows] == [16, 4]


class Doubled(nn.Module):
    """A layer of one's own: nobody knows what it computes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, x):
        return x @ self.weight.T


class Linear(nn.Linear):
    """A layer of one's own with a name that torch has too."""

    def forward(self, x):
        return super().forward(x) + super().forward(2 * x)


class Positions(nn.Module):
    """A module with layers inside and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(4))
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x + self.positions)


@pytest.mark.parametrize(
    ("model", "parameters", "kinds"),
    [
        (Doubled(), 12, ["Doubled"]),
        (Linear(4, 3), 15, ["Linear"]),
        (nn.LSTM(4, 3), 4 * 3 * (4 + 3 + 2), ["LSTM"]),
        (Positions(), 14, ["Positions"]),
    ],
    ids=["own layer", "own class named as torch's", "LSTM", "own parameter beside layers"],
)
def test_what_nobody_knows_is_a_question_mark_and_not_zero(model, parameters, kinds):
    rows = [*layer_table(nn.Sequential(model), (5, 4)), Row("free", "ReLU", (4,), 0, 0, 0, 0)]
    whole = total(rows)
    assert whole.parameters == parameters
    assert whole.multiply_adds is None
    assert [row.kind for row in rows if row.multiply_adds is None] == kinds
    assert cells(whole)[COLUMNS.index("multiply-adds")] == "?"


def test_a_layer_that_only_training_uses_keeps_its_parameters_in_the_total():
    class WithHelper(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.helper = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            return (self.main(x), self.helper(x)) if self.training else self.main(x)

    rows = layer_table(WithHelper(), (4,))
    assert [(row.name, row.parameters, row.multiply_adds) for row in rows] == [("main", 10, 8), ("helper", 15, 0)]
    assert (rows[1].output_shape, rows[1].output_bytes) == (None, 0)
    assert "not called" in rows[1].detail


@pytest.mark.parametrize(
    "layer",
    [nn.MultiheadAttention(4, 2, batch_first=True), nn.Bilinear(4, 4, 3)],
    ids=["attention", "bilinear"],
)
def test_a_layer_of_torch_that_has_products_but_no_rule_here_is_unknown(layer):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, x, x) if isinstance(layer, nn.MultiheadAttention) else self.layer(x, x)

    rows = layer_table(Twice(), (5, 4))
    assert total(rows).multiply_adds is None
    assert total(rows).parameters == sum(p.numel() for p in layer.parameters())


def test_layers_without_products_count_zero():
    layers = [nn.ReLU(), nn.BatchNorm2d(2), nn.MaxPool2d(2, return_indices=False), nn.Dropout(), nn.Flatten()]
    layers += [nn.Unflatten(1, (2, 4)), nn.Identity(), nn.LayerNorm(4), nn.Softmax(-1), nn.LeakyReLU()]
    rows = layer_table(nn.Sequential(*layers), (2, 4, 4))
    assert [row.multiply_adds for row in rows] == [0] * len(layers)
    assert [row.kind for row in rows] == [type(layer).__name__ for layer in layers]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    layer_table(model, (1, 8, 8))
    with pytest.raises(ShapeError):
        layer_table(model, (1, 2, 2))
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_in_float64_takes_eight_bytes_a_value():
    (row,) = layer_table(nn.Linear(3, 2).double(), (3,))
    assert (row.parameter_bytes, row.output_bytes) == (8 * 8, 2 * 8)


@pytest.mark.parametrize("hand", [lambda model: model, by_hand_layers.by_hand], ids=["library", "by hand"])
def test_an_input_that_does_not_fit_is_one_line_that_names_it(hand):
    with pytest.raises(ShapeError) as caught:
        layer_table(hand(build("mlp")), (3, 28, 28))
    assert "\n" not in str(caught.value)
    assert "784" in str(caught.value)


def test_cells_are_the_text_of_a_row():
    (row,) = layer_table(nn.Conv2d(1, 6, 5), (1, 32, 32))
    assert cells(row) == ("(network)", "Conv2d", "6 × 28 × 28", "156", "117,600", "624", "18,816")
    assert len(cells(row)) == len(COLUMNS)
    assert cells(total([row]))[:3] == ("total", "", "")


def test_mobilenet_with_full_convolutions_costs_what_its_paper_says():
    with torch.device("meta"):
        model = models.build("mobilenet_v1")
    rows = layer_table(model, (3, 224, 224))
    found = separated(model, rows)
    # Howard et al. 2017, table 4: 4866 million multiply-adds with full convolutions, 569 with depthwise separable ones.
    # The layers of their table 1 give 4867.3.
    assert found.pairs == 13
    assert (total(rows).multiply_adds - found.multiply_adds + found.full) / 1e6 == pytest.approx(4866, rel=1e-3)
    assert round(total(rows).multiply_adds / 1e6) == 569


def test_what_is_separated_is_counted_by_hand():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.Conv2d(10, 5, 1), nn.Conv2d(5, 2, 3)
    )
    found = separated(model, layer_table(model, (4, 6, 6)))
    assert (found.pairs, found.multiply_adds, found.full) == (1, 36 * (9 * 4 + 4 * 10), 36 * 9 * 4 * 10)
    assert separated(model[2:], layer_table(model[2:], (4, 6, 6))).pairs == 0

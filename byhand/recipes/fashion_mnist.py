"""Softmax regression, perceptrons and LeNet-5 on Fashion-MNIST; the source's sections 3.4, 4.3 and 5.2."""

from byhand.data.preparation import Preparation
from byhand.recipes.recipe import SOURCE_LENET5, Plan, Recipe, at_least, near
from byhand.training.settings import Settings

STANDARD = Preparation(mean=0.2860, std=0.3530)  # mean and deviation of the 60,000 training images
PADDED = Preparation(size=32, fit="pad", mean=0.2860, std=0.3530)

# The source divides the summed gradient by 256 also for the last batch of an epoch, which has 96 images, and reports
# the loss and training accuracy that were summed up while the last epoch ran. Every plan book trains by library: its
# numbers stand beside the source's, and its constant lr ends up to 0.006 apart by rounding alone.
SOURCE_SGD = Settings(
    epochs=30,
    batch_size=256,
    lr=0.1,
    init="normal",
    divide_by="batch_size",
    running_metrics=True,
    by_hand=False,
)

SOFTMAX_FASHION = Recipe(
    name="softmax-fashion",
    title="Softmax regression",
    section="3.4",
    network="softmax-regression",
    dataset="fashion-mnist",
    reported={"train_loss": 0.4072, "train_accuracy": 0.8609, "accuracy": 0.8417},
    plans={
        "book": Plan(
            SOURCE_SGD,
            {"train_loss": near(0.4072, 0.006), "train_accuracy": near(0.8609, 0.006), "accuracy": near(0.8417, 0.006)},
        ),
        "fast": Plan(
            Settings(epochs=2, batch_size=256, lr=0.05, optimizer="adam", schedule="one-cycle"),
            {"accuracy": at_least(0.8417)},
        ),
        "best": Plan(
            Settings(
                epochs=12,
                batch_size=256,
                lr=0.01,
                optimizer="adamw",
                weight_decay=0.01,
                beta2=0.99,
                schedule="one-cycle",
            ),
            {"accuracy": at_least(0.848)},
        ),
    },
)

MLP_FAST = Settings(
    epochs=3,
    batch_size=256,
    lr=8e-3,
    optimizer="adamw",
    beta2=0.95,
    weight_decay=0.01,
    schedule="one-cycle",
    rise=0.1,
    preparation=STANDARD,
)
MLP_BEST = Settings(
    epochs=100,
    batch_size=256,
    lr=3e-3,
    optimizer="adamw",
    weight_decay=0.05,
    schedule="one-cycle",
    label_smoothing=0.05,
    dropout=0.1,
    ema=0.999,
    shift=1,
    preparation=STANDARD,
)

MLP_FASHION = Recipe(
    name="mlp-fashion",
    title="Multilayer perceptron 784-256-128-10",
    section="4.3",
    network="mlp",
    dataset="fashion-mnist",
    reported={"train_loss": 0.2668, "train_accuracy": 0.9015, "accuracy": 0.8786},
    plans={
        "book": Plan(
            SOURCE_SGD,
            {"train_loss": near(0.2668, 0.008), "train_accuracy": near(0.9015, 0.008), "accuracy": near(0.8786, 0.008)},
        ),
        "fast": Plan(MLP_FAST, {"accuracy": at_least(0.8786)}),
        "best": Plan(MLP_BEST, {"accuracy": at_least(0.907)}),
    },
)

MLP_FASHION_ADAMW = Recipe(
    name="mlp-fashion-adamw",
    title="The same perceptron from torch's layers, with AdamW",
    section="5.2",
    network="mlp",
    dataset="fashion-mnist",
    plans={
        # The source prints no result here; its training accuracy, too, is taken while the epoch runs.
        "book": Plan(
            Settings(
                epochs=30,
                batch_size=256,
                lr=1e-3,
                optimizer="adamw",
                weight_decay=0.01,
                running_metrics=True,
                by_hand=False,
            )
        ),
        "fast": Plan(MLP_FAST, {"accuracy": at_least(0.8786)}),
        "best": Plan(MLP_BEST, {"accuracy": at_least(0.907)}),
    },
)

LENET5_FASHION = Recipe(
    name="lenet5-fashion",
    title="LeNet-5",
    section="6.3",
    network="lenet5",
    dataset="fashion-mnist",
    plans={
        # The source trains this network on MNIST only; these are its settings there.
        "book": Plan(SOURCE_LENET5),
        "fast": Plan(
            Settings(
                epochs=4,
                batch_size=256,
                lr=0.02,
                optimizer="adamw",
                beta2=0.98,
                weight_decay=0.05,
                schedule="one-cycle",
                rise=0.2,
                preparation=PADDED,
            )
        ),
        "best": Plan(
            Settings(
                epochs=25,
                batch_size=128,
                lr=5e-3,
                optimizer="adamw",
                weight_decay=0.01,
                schedule="one-cycle",
                label_smoothing=0.05,
                ema=0.999,
                shift=1,
                preparation=PADDED,
            )
        ),
    },
)

LENET5_BN_FASHION = Recipe(
    name="lenet5-bn-fashion",
    title="LeNet-5 with batch normalisation",
    section="7.5",
    network="lenet5-bn",
    dataset="fashion-mnist",
    plans={
        "fast": Plan(
            Settings(
                epochs=10,
                batch_size=256,
                lr=0.02,
                optimizer="adamw",
                beta2=0.98,
                weight_decay=0.05,
                schedule="one-cycle",
                rise=0.2,
                shift=1,
                preparation=PADDED,
                by_hand=False,  # with batch normalisation the library is a little faster
            ),
            {"accuracy": at_least(0.91)},
        ),
    },
)

"""LeNet-5 on the embedded 8 × 8 digits: no download, a trained network in seconds."""

from byhand.data.preparation import Preparation
from byhand.recipes.recipe import SOURCE_LENET5, Plan, Recipe, at_least
from byhand.training.settings import Settings

ENLARGED = Preparation(size=32, fit="resize", mean=0.3, std=0.38)  # about the mean and deviation of the images

LENET5_DIGITS = Recipe(
    name="lenet5-digits",
    title="LeNet-5",
    section="6.3",
    network="lenet5",
    dataset="digits",
    plans={
        # The source does not train on these images; these are its settings for MNIST, over as many epochs.
        "book": Plan(SOURCE_LENET5),
        "fast": Plan(
            Settings(
                epochs=12,
                batch_size=32,
                lr=6e-3,
                optimizer="adamw",
                weight_decay=0.01,
                schedule="one-cycle",
                shift=2,
                preparation=ENLARGED,
                threads=1,  # a batch of 32 is too small to share between cores
            ),
            {"accuracy": at_least(0.98)},
        ),
        "best": Plan(
            Settings(
                epochs=40,
                batch_size=32,
                lr=6e-3,
                optimizer="adamw",
                weight_decay=0.01,
                schedule="one-cycle",
                label_smoothing=0.05,
                ema=0.99,
                shift=2,
                preparation=ENLARGED,
                threads=1,
            ),
            {"accuracy": at_least(0.99)},
        ),
    },
)

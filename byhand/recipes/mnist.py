"""LeNet-5 and ResNet-20 on MNIST; the source's sections 6.3 and 7.6."""

from byhand.data.preparation import Preparation
from byhand.recipes.recipe import ONE_CYCLE, SOURCE_LENET5, Plan, Recipe, at_least, near
from byhand.training.settings import Settings

STRETCHED = Preparation(size=32, fit="resize", mean=0.1307, std=0.3081)  # mean and deviation of the training images

LENET5_MNIST = Recipe(
    name="lenet5-mnist",
    title="LeNet-5",
    section="6.3",
    network="lenet5",
    dataset="mnist",
    reported={"train_loss": 0.0134, "train_accuracy": 0.9955, "accuracy": 0.9904},
    plans={
        # The source's training loss and accuracy are summed up while the last epoch runs.
        "book": Plan(
            SOURCE_LENET5,
            {"accuracy": near(0.9904, 0.002)},
        ),
        "fast": Plan(
            Settings(
                epochs=2,
                batch_size=256,
                lr=0.02,
                optimizer="adamw",
                beta2=0.98,
                weight_decay=0.05,
                schedule="one-cycle",
                rise=0.2,
                preparation=STRETCHED,
            ),
            {"accuracy": at_least(0.9904)},
        ),
        "best": Plan(
            Settings(
                epochs=30,
                batch_size=128,
                lr=5e-3,
                optimizer="adamw",
                weight_decay=0.01,
                schedule="one-cycle",
                label_smoothing=0.05,
                ema=0.999,
                rotate=10,
                zoom=0.1,
                move=2,
                preparation=STRETCHED,
            ),
            {"accuracy": at_least(0.995)},
        ),
    },
)

RESNET20_MNIST = Recipe(
    name="resnet20-mnist",
    title="ResNet-20",
    section="7.6",
    network="resnet20",
    dataset="mnist",
    options={"in_channels": 1},
    plans={
        "fast": Plan(
            ONE_CYCLE.replace(epochs=4, rotate=10, zoom=0.1, move=2, preparation=Preparation(mean=0.1307, std=0.3081)),
            {"accuracy": at_least(0.996)},
        ),
    },
)

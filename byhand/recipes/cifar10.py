"""ResNets on CIFAR-10: He et al. (2016), Deep Residual Learning for Image Recognition, section 4.2."""

from byhand.data.preparation import Preparation
from byhand.recipes.recipe import ONE_CYCLE, Plan, Recipe, at_least
from byhand.training.settings import Settings

# Mean and deviation of the channels of the training images. The paper subtracts the mean of each pixel and divides by
# nothing, and it trains on 45,000 images of which the other 5,000 choose; all else is as there.
STANDARD = Preparation(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))

# 64,000 steps of 128 images are 164 epochs (163.7, which is rounded up to whole ones); the lr falls after 32,000 and
# 48,000 of them.
PAPER = Settings(
    epochs=164,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="milestones",
    milestones=(0.5, 0.75),
    flip=True,
    shift=4,
    preparation=STANDARD,
    by_hand=False,
    channels_last=True,
)
# Fourteen epochs, with shifts of two pixels and no mirrored test, had reached 0.8837 on the fifth training batch.
FAST = ONE_CYCLE.replace(
    epochs=30, lr=0.4, flip=True, shift=4, preparation=STANDARD, test_flip=True, mixed_precision=True
)


def cifar(name: str, title: str, network: str, accuracy: float, dataset: str = "cifar10") -> Recipe:
    """The recipe of a network, with the accuracy that the paper's table 6 gives."""
    return Recipe(
        name=name,
        title=title,
        section="7.6",
        network=network,
        dataset=dataset,
        plans={"book": Plan(PAPER, {"accuracy": at_least(accuracy)}), "fast": Plan(FAST, {"accuracy": at_least(0.9)})},
    )


RESNET20_CIFAR10 = cifar("resnet20-cifar10", "ResNet-20", "resnet20", 0.9125)
RESNET56_CIFAR10 = cifar("resnet56-cifar10", "ResNet-56", "resnet56", 0.9303)
RESNET20_CIFAR10_BATCH5 = cifar(
    "resnet20-cifar10-batch5", "ResNet-20 measured on the fifth training batch", "resnet20", 0.9125, "cifar10-batch5"
)

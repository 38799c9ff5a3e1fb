"""The recipes: plain Python, found by reading one tuple. Importing them does not import torch."""

from byhand.errors import unknown_name
from byhand.recipes.cifar10 import RESNET20_CIFAR10, RESNET20_CIFAR10_BATCH5, RESNET56_CIFAR10
from byhand.recipes.digits import LENET5_DIGITS
from byhand.recipes.fashion_mnist import (
    LENET5_BN_FASHION,
    LENET5_FASHION,
    MLP_FASHION,
    MLP_FASHION_ADAMW,
    SOFTMAX_FASHION,
)
from byhand.recipes.mnist import LENET5_MNIST, RESNET20_MNIST
from byhand.recipes.modern_fashion import MODERN_FASHION
from byhand.recipes.recipe import Plan, Recipe
from byhand.recipes.scenes import FASTERRCNN_BCCD, FASTERRCNN_SCENES, FASTRCNN_SCENES, MASKRCNN_SCENES, RCNN_SCENES
from byhand.recipes.synthetic_linear import LINEAR_REGRESSION

__all__ = ["DEFAULT", "RECIPES", "Plan", "Recipe", "recipe"]

RECIPES = (
    LINEAR_REGRESSION,
    SOFTMAX_FASHION,
    MLP_FASHION,
    MLP_FASHION_ADAMW,
    LENET5_MNIST,
    LENET5_FASHION,
    LENET5_DIGITS,
    LENET5_BN_FASHION,
    *MODERN_FASHION,
    RESNET20_MNIST,
    RESNET20_CIFAR10,
    RESNET20_CIFAR10_BATCH5,
    RESNET56_CIFAR10,
    RCNN_SCENES,
    FASTRCNN_SCENES,
    FASTERRCNN_SCENES,
    MASKRCNN_SCENES,
    FASTERRCNN_BCCD,
)
DEFAULT = LENET5_DIGITS  # needs no data but the embedded


def recipe(name: str) -> Recipe:
    """The recipe of that name; raises UnknownName."""
    for one in RECIPES:
        if one.name == name:
            return one
    raise unknown_name("recipe", name, (one.name for one in RECIPES))

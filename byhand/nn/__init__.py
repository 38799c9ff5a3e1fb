"""torch.nn's layers by hand: the same names, arguments, defaults, initialisation and state-dict keys.

Containers (Module, ModuleList, Parameter, ...) are torch's own: nothing is computed in them.
"""

from torch.nn import (
    Identity,
    Module,
    ModuleDict,
    ModuleList,
    Parameter,
    ParameterDict,
    ParameterList,
    Unflatten,
)

from byhand.nn import functional, init
from byhand.nn.activation import LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from byhand.nn.convolution import Conv2d
from byhand.nn.dropout import Dropout
from byhand.nn.flatten import Flatten
from byhand.nn.hands import by_hand, by_library
from byhand.nn.hypercomplex import PHMLinear
from byhand.nn.linear import Linear
from byhand.nn.loss import CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, NLLLoss, SmoothL1Loss
from byhand.nn.normalisation import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from byhand.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from byhand.nn.sequential import Sequential
from byhand.nn.smooth_activation import GELU, Hardsigmoid, Hardswish, ReLU6, SiLU
from byhand.nn.stochastic_depth import StochasticDepth
from byhand.nn.transposed import ConvTranspose2d

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "HuberLoss",
    "Identity",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "PHMLinear",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "StochasticDepth",
    "Tanh",
    "Unflatten",
    "by_hand",
    "by_library",
    "functional",
    "init",
]


def __getattr__(name: str):
    import torch.nn

    if not name.startswith("_") and hasattr(torch.nn, name):
        raise AttributeError(f"torch.nn.{name} has no twin by hand yet; byhand.nn has {', '.join(__all__)}")
    raise AttributeError(f"module 'byhand.nn' has no attribute {name!r}")

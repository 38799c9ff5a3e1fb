"""The mathematics by hand: tensors in, tensors out, each with its forward and its backward formula.

Names, arguments and defaults are those of ``torch.nn.functional`` where it has the function.
"""

from byhand.ops.activations import leaky_relu, relu, sigmoid, tanh
from byhand.ops.binary_cross_entropy import binary_cross_entropy_with_logits
from byhand.ops.convolution import conv2d, conv_output_size, corr2d
from byhand.ops.cross_entropy import cross_entropy, nll_loss, one_hot
from byhand.ops.flatten import flatten
from byhand.ops.hypercomplex import hypercomplex_weight
from byhand.ops.least_squares import RankDeficient, least_squares
from byhand.ops.linear import linear
from byhand.ops.losses import huber_loss, l1_loss, mse_loss, smooth_l1_loss, squared_loss
from byhand.ops.normalisation import batch_norm, group_norm, layer_norm, local_response_norm
from byhand.ops.padding import pad2d
from byhand.ops.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from byhand.ops.regularisation import dropout, l2_penalty
from byhand.ops.smooth_activations import gelu, hardsigmoid, hardswish, hardtanh, relu6, silu
from byhand.ops.softmax import log_softmax, softmax
from byhand.ops.stochastic_depth import stochastic_depth
from byhand.ops.transposed import conv_transpose2d

__all__ = [
    "RankDeficient",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_output_size",
    "conv_transpose2d",
    "corr2d",
    "cross_entropy",
    "dropout",
    "flatten",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "hypercomplex_weight",
    "l1_loss",
    "l2_penalty",
    "layer_norm",
    "leaky_relu",
    "least_squares",
    "linear",
    "local_response_norm",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad2d",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "squared_loss",
    "stochastic_depth",
    "tanh",
]

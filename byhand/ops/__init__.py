"""The mathematics by hand: tensors in, tensors out, each with its forward and its backward formula.

Names, arguments and defaults are those of ``torch.nn.functional`` where it has the function.
"""

from byhand.ops.activations import leaky_relu, relu, sigmoid, tanh
from byhand.ops.anchors import anchor_boxes, cell_anchors, multibox_prior, receptive_centres, receptive_field
from byhand.ops.assignment import assign_anchor_to_bbox, match_boxes, sample_balanced
from byhand.ops.average_precision import Detections, Objects
from byhand.ops.binary_cross_entropy import binary_cross_entropy_with_logits
from byhand.ops.boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    decode_boxes,
    encode_boxes,
    generalized_box_iou,
    remove_small_boxes,
)
from byhand.ops.coco_precision import CocoPrecision, coco_average_precision
from byhand.ops.convolution import conv2d, conv_output_size, corr2d
from byhand.ops.cross_entropy import cross_entropy, nll_loss, one_hot
from byhand.ops.flatten import flatten
from byhand.ops.fusion import fuse_boxes
from byhand.ops.hypercomplex import hypercomplex_weight
from byhand.ops.least_squares import RankDeficient, least_squares
from byhand.ops.linear import linear
from byhand.ops.losses import huber_loss, l1_loss, mse_loss, smooth_l1_loss, squared_loss
from byhand.ops.masks import paste_masks_in_image
from byhand.ops.normalisation import batch_norm, group_norm, layer_norm, local_response_norm
from byhand.ops.padding import pad2d
from byhand.ops.polygons import encode_polygons
from byhand.ops.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from byhand.ops.pyramid import multiscale_roi_align
from byhand.ops.regularisation import dropout, l2_penalty
from byhand.ops.resizing import interpolate, resize, upsample_nearest
from byhand.ops.roi_align import roi_align
from byhand.ops.roi_pool import roi_pool
from byhand.ops.run_length import decode_mask, encode_mask, mask_area, mask_box, mask_iou, merge_masks
from byhand.ops.selective_search import selective_search
from byhand.ops.smooth_activations import gelu, hardsigmoid, hardswish, hardtanh, relu6, silu
from byhand.ops.softmax import log_softmax, softmax
from byhand.ops.stochastic_depth import stochastic_depth
from byhand.ops.suppression import batched_nms, nms, soft_nms
from byhand.ops.transposed import conv_transpose2d
from byhand.ops.voc_precision import VocPrecision, voc_average_precision
from byhand.ops.warping import warp_boxes

__all__ = [
    "CocoPrecision",
    "Detections",
    "Objects",
    "RankDeficient",
    "VocPrecision",
    "adaptive_avg_pool2d",
    "anchor_boxes",
    "assign_anchor_to_bbox",
    "avg_pool2d",
    "batch_norm",
    "batched_nms",
    "binary_cross_entropy_with_logits",
    "box_area",
    "box_convert",
    "box_iou",
    "cell_anchors",
    "clip_boxes_to_image",
    "coco_average_precision",
    "conv2d",
    "conv_output_size",
    "conv_transpose2d",
    "corr2d",
    "cross_entropy",
    "decode_boxes",
    "decode_mask",
    "dropout",
    "encode_boxes",
    "encode_mask",
    "encode_polygons",
    "flatten",
    "fuse_boxes",
    "gelu",
    "generalized_box_iou",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "hypercomplex_weight",
    "interpolate",
    "l1_loss",
    "l2_penalty",
    "layer_norm",
    "leaky_relu",
    "least_squares",
    "linear",
    "local_response_norm",
    "log_softmax",
    "mask_area",
    "mask_box",
    "mask_iou",
    "match_boxes",
    "max_pool2d",
    "merge_masks",
    "mse_loss",
    "multibox_prior",
    "multiscale_roi_align",
    "nll_loss",
    "nms",
    "one_hot",
    "pad2d",
    "paste_masks_in_image",
    "receptive_centres",
    "receptive_field",
    "relu",
    "relu6",
    "remove_small_boxes",
    "resize",
    "roi_align",
    "roi_pool",
    "sample_balanced",
    "selective_search",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_nms",
    "softmax",
    "squared_loss",
    "stochastic_depth",
    "tanh",
    "upsample_nearest",
    "voc_average_precision",
    "warp_boxes",
]

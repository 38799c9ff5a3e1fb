"""Pictures of a run: figures without a window, in English or Chinese; nothing here is shown unless asked for.

`PICTURES` and `LANGUAGES` are plain names, so that the command line can list them without importing matplotlib or
torch; the functions are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from byhand.plots.language import LANGUAGES

if TYPE_CHECKING:
    from byhand.plots.costs import Point, accuracy_against_cost
    from byhand.plots.curves import accuracy_curve, loss_curve
    from byhand.plots.detections import detections_beside_truth, detections_figure
    from byhand.plots.figures import figures_of, save_figures, show, write_figure
    from byhand.plots.focus import Focus
    from byhand.plots.gradcam import grad_cam, heat_over_images
    from byhand.plots.gradients import gradient_norm_curves, gradient_norms, pairs_measured
    from byhand.plots.layers import feature_maps, filters, layer_maps
    from byhand.plots.lr_search import lr_curve
    from byhand.plots.precision import ap_by_iou, precision_recall
    from byhand.plots.predictions import confusion_matrix, predicted_against_true, worst_mistakes
    from byhand.plots.proposals import anchors_figure, matches_figure, proposals_figure
    from byhand.plots.receptive import effective_fields, receptive_fields_figure
    from byhand.plots.regions import regions_figure


class Picture(NamedTuple):
    """A picture's name, which is also its file's name, one line on what it shows, and what it can be pointed at."""

    name: str
    description: str
    takes: tuple[str, ...] = ()  # of layer, images and label


PICTURES = (
    Picture("loss", "loss of every epoch"),
    Picture("accuracy", "accuracy of every epoch, and what the source reports"),
    Picture("predicted", "predicted against true values with the ideal line y = x (regression)"),
    Picture("confusion", "confusion matrix of the test images: counts and shares"),
    Picture("mistakes", "the 25 worst mistakes: surest of a wrong class first"),
    Picture("filters", "what the first layer, or any other, looks for: filters or templates", ("layer",)),
    Picture("features", "each layer's feature maps, or all of one layer's, for one image", ("layer", "images")),
    Picture("gradcam", "which places of images speak for their class (Grad-CAM)", ("layer", "images", "label")),
    Picture("receptive", "how much of the input layers see: receptive fields", ("layer",)),
    Picture("anchors", "a detector's anchors on an image", ("images",)),
    Picture("proposals", "its proposals before and after suppression", ("images",)),
    Picture("matches", "which anchors and proposals learn objects, and which background", ("images",)),
    Picture("detections", "what it finds in test images beside the truth", ("images",)),
    Picture("roi-grid", "the bins of RoI pooling beside the samples of RoI align, of a detection", ("images",)),
    Picture("precision-recall", "precision against recall of each class"),
    Picture("ap-iou", "average precision against the IoU that is asked for"),
)
# Pictures that are of no one run, measured or gathered for themselves.
WITHOUT_RUN = (
    Picture("gradient-norms", "gradient norm of each layer, with and without shortcuts and batch normalisation"),
    Picture("costs", "accuracy against multiply-adds of all trained networks"),
)

HOMES = {
    "loss_curve": "curves",
    "accuracy_curve": "curves",
    "lr_curve": "lr_search",
    "predicted_against_true": "predictions",
    "confusion_matrix": "predictions",
    "worst_mistakes": "predictions",
    "filters": "layers",
    "feature_maps": "layers",
    "layer_maps": "layers",
    "grad_cam": "gradcam",
    "heat_over_images": "gradcam",
    "effective_fields": "receptive",
    "receptive_fields_figure": "receptive",
    "gradient_norms": "gradients",
    "gradient_norm_curves": "gradients",
    "pairs_measured": "gradients",
    "Point": "costs",
    "accuracy_against_cost": "costs",
    "detections_figure": "detections",
    "detections_beside_truth": "detections",
    "precision_recall": "precision",
    "ap_by_iou": "precision",
    "anchors_figure": "proposals",
    "proposals_figure": "proposals",
    "matches_figure": "proposals",
    "regions_figure": "regions",
    "Focus": "focus",
    "figures_of": "figures",
    "save_figures": "figures",
    "show": "figures",
    "write_figure": "figures",
}

__all__ = [
    "LANGUAGES",
    "PICTURES",
    "WITHOUT_RUN",
    "Focus",
    "Picture",
    "Point",
    "accuracy_against_cost",
    "accuracy_curve",
    "anchors_figure",
    "ap_by_iou",
    "confusion_matrix",
    "detections_beside_truth",
    "detections_figure",
    "effective_fields",
    "feature_maps",
    "figures_of",
    "filters",
    "grad_cam",
    "gradient_norm_curves",
    "gradient_norms",
    "heat_over_images",
    "layer_maps",
    "loss_curve",
    "lr_curve",
    "matches_figure",
    "pairs_measured",
    "precision_recall",
    "predicted_against_true",
    "proposals_figure",
    "receptive_fields_figure",
    "regions_figure",
    "save_figures",
    "show",
    "worst_mistakes",
    "write_figure",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'byhand.plots' has no attribute {name!r}")
    return getattr(importlib.import_module(f"byhand.plots.{HOMES[name]}"), name)

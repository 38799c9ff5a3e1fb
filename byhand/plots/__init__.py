"""Pictures of a run: figures without a window, in English or Chinese; nothing here is shown unless asked for.

`PICTURES` and `LANGUAGES` are plain names, so that the command line can list them without importing matplotlib or
torch; the functions are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from byhand.plots.language import LANGUAGES

if TYPE_CHECKING:
    from byhand.plots.curves import accuracy_curve, loss_curve
    from byhand.plots.figures import figures_of, save_figures, show
    from byhand.plots.layers import feature_maps, filters
    from byhand.plots.predictions import confusion_matrix, predicted_against_true, worst_mistakes


class Picture(NamedTuple):
    """A picture's name, which is also its file's name, and one line on what it shows."""

    name: str
    description: str


PICTURES = (
    Picture("loss", "loss of every epoch"),
    Picture("accuracy", "accuracy of every epoch, and what the source reports"),
    Picture("predicted", "predicted against true values with the ideal line y = x (regression)"),
    Picture("confusion", "confusion matrix of the test images: counts and shares"),
    Picture("mistakes", "the 25 worst mistakes: surest of a wrong class first"),
    Picture("filters", "what the first layer looks for: filters or templates"),
    Picture("features", "each layer's feature maps for one test image"),
)

HOMES = {
    "loss_curve": "curves",
    "accuracy_curve": "curves",
    "predicted_against_true": "predictions",
    "confusion_matrix": "predictions",
    "worst_mistakes": "predictions",
    "filters": "layers",
    "feature_maps": "layers",
    "figures_of": "figures",
    "save_figures": "figures",
    "show": "figures",
}

__all__ = [
    "LANGUAGES",
    "PICTURES",
    "Picture",
    "accuracy_curve",
    "confusion_matrix",
    "feature_maps",
    "figures_of",
    "filters",
    "loss_curve",
    "predicted_against_true",
    "save_figures",
    "show",
    "worst_mistakes",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'byhand.plots' has no attribute {name!r}")
    return getattr(importlib.import_module(f"byhand.plots.{HOMES[name]}"), name)

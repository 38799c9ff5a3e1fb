"""The run directory and what stands in it; saving and loading on the safe path."""

from byhand.runs.picture import read_image
from byhand.runs.run import Run
from byhand.runs.storage import load, load_weights, save, save_weights

__all__ = ["Run", "load", "load_weights", "read_image", "save", "save_weights"]

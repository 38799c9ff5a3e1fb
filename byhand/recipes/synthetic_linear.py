"""Linear regression on points that were made for it; the source's section 3.2."""

from byhand.recipes.recipe import Plan, Recipe
from byhand.training.settings import Settings

FOUND = {"max_weight_error": (0.0, 1e-3), "closed_form_error": (0.0, 1e-3)}

LINEAR_REGRESSION = Recipe(
    name="linear-regression",
    title="Linear regression",
    section="3.2",
    network="linear-regression",
    dataset="synthetic-linear",
    task="regression",
    plans={
        # As the source: the step divides the summed gradient by 30 also for the last batch of an epoch, which has 20.
        "book": Plan(
            Settings(epochs=20, batch_size=30, lr=0.008, init="normal", divide_by="batch_size", by_hand=False), FOUND
        ),
        "fast": Plan(Settings(epochs=3, batch_size=32, lr=0.1, schedule="cosine"), FOUND),
        "best": Plan(Settings(epochs=20, batch_size=100, lr=0.2, schedule="cosine"), FOUND),
    },
)

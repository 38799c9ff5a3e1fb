"""synthetic-linear: the source's made examples of a linear relation with noise."""

from typing import TYPE_CHECKING

from byhand.data.entry import Entry

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset

WEIGHT = (1.1, -4.5, 1.4)
BIAS = 1.1919810
NOISE = 0.01  # standard deviation

SYNTHETIC_LINEAR = Entry(
    name="synthetic-linear",
    title="Points on a plane, with noise",
    num_train=2000,
    num_test=1000,
    shape=(3,),
    class_names=(),
    licence="made when it is loaded",
    citation="Zhang, Lipton, Li & Smola, Dive into Deep Learning, 3.2; weights and number as in the source's notes",
    kind="made",
)


def make_synthetic_linear(seed: int = 0) -> "Dataset":
    """2,000 training and 1,000 test examples: X ~ N(0, 1), float32 (n, 3); y = X w + b + N(0, 0.01²), float32 (n, 1).

    Both parts come from the same w and b, which are in `truth`, but from generators that never meet.

    Raises:
        SettingsError: the seed is negative.
    """
    import hashlib

    import numpy as np
    import torch

    from byhand.data.arrays import Dataset
    from byhand.errors import SettingsError

    if seed < 0:
        raise SettingsError(f"seed {seed} must not be negative")

    def draw(n: int, part: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([seed, part])
        X = generator.standard_normal((n, len(WEIGHT))).astype(np.float32)
        # summed in a fixed order in float64: a matrix product may round differently on another machine
        y = sum((X[:, j].astype(np.float64) * w for j, w in enumerate(WEIGHT)), start=np.full(n, BIAS))
        y = y + generator.normal(0, NOISE, n)
        return X, y.astype(np.float32).reshape(-1, 1)

    parts = [draw(n, part) for part, n in enumerate((SYNTHETIC_LINEAR.num_train, SYNTHETIC_LINEAR.num_test))]
    train, test = ((torch.from_numpy(X), torch.from_numpy(y)) for X, y in parts)
    names = ("train features", "train targets", "test features", "test targets")
    arrays = [array for part in parts for array in part]
    return Dataset(
        SYNTHETIC_LINEAR.name,
        *train,
        *test,
        truth={"weight": list(WEIGHT), "bias": BIAS},
        sha256={name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in zip(names, arrays, strict=True)},
        source=f"made from seed {seed}",
    )

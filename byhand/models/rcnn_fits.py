"""What R-CNN learns after its network: a linear support vector machine a class, and ridge regression of its boxes.

Girshick, Donahue, Darrell & Malik, Rich feature hierarchies (2014), section 2.3 and appendices B and C; what the paper
leaves open is as in the authors' code. Both fits are scikit-learn's, of the extra ``detection``.
"""

from typing import Any

import torch
from torch import Tensor

from byhand.errors import ByhandError

NORM = 20.0  # features are scaled to this mean length, so that one cost fits every network (authors' code)
COST = 1e-3  # C of the machines
RIDGE = 1000.0  # λ of appendix C
MARGIN = -1.0  # a negative above it lies on the wrong side of its margin: it is hard
EASY = -1.2  # a negative below it is let go
REFIT = 2000  # hard negatives of a class until its machine is fitted again
NEVER = -1000.0  # the bias of a class that nothing could be learned of: its chance is 0 to the last bit


def scikit_learn() -> tuple[Any, Any]:
    """scikit-learn's ``LinearSVC`` and ``Ridge``; raises ByhandError where it is not installed."""
    try:
        from sklearn.linear_model import Ridge
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise ByhandError(
            f"R-CNN needs scikit-learn for its support vector machines and box regression ({error}); "
            'pip install "byhand[detection]"'
        ) from None
    return LinearSVC, Ridge


class HardNegatives:
    """The support vector machine of one class, w · x + b, and the negatives that are worth its while.

    All windows of all images are too many to learn from at once, and nearly all are easy. So the machine is fitted to
    the objects and to the negatives of one image; of each further image it takes only those that violate the margin,
    w · x + b > −1, is fitted again after ``refit`` of them, and lets go of those that became easy (Felzenszwalb et al.,
    2010; Sung & Poggio, 1994).

    Args:
        positive: features (P, D) of the objects of the class. Without any, and without any negative, nothing is fitted,
            and ``weight`` and ``bias`` stay None.

    The loss is ½ ‖(w, b / 10)‖² + C Σ s_i max(0, 1 − y_i (w · x_i + b)) with s = 2 for objects and 1 for negatives: the
    authors' options of liblinear.
    """

    def __init__(self, positive: Tensor, cost: float = COST, refit: int = REFIT) -> None:
        self.positive, self.cost, self.refit = positive, cost, refit
        self.negative: dict[int, Tensor] = {}  # by the number of the window
        self.new = 0  # since the last fit
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def add(self, features: Tensor, numbers: Tensor) -> int:
        """How many of these windows, (N, D) with numbers (N,), were taken: all before the first fit, then hard ones."""
        if not len(self.positive):
            return 0
        hard = torch.arange(len(features))
        if self.weight is not None:
            hard = (self.margins(features) > MARGIN).nonzero()[:, 0]
        taken = {int(numbers[k]): features[k].clone() for k in hard.tolist() if int(numbers[k]) not in self.negative}
        self.negative |= taken
        self.new += len(taken)
        if self.new > (0 if self.weight is None else self.refit):
            self.fit()
        return len(taken)

    def margins(self, features: Tensor) -> Tensor:
        """w · x + b of each row, (N, D) -> (N,)."""
        assert self.weight is not None
        assert self.bias is not None
        return features @ self.weight + self.bias

    def fit(self) -> None:
        """Nothing; fits the machine to objects and negatives, and lets easy negatives go."""
        if not (self.new and len(self.positive)):
            return
        LinearSVC, _ = scikit_learn()
        negative = torch.stack(list(self.negative.values()))
        X = torch.cat([self.positive, negative]).double().numpy()
        y = [1] * len(self.positive) + [-1] * len(negative)
        machine = LinearSVC(
            C=self.cost,
            loss="hinge",
            dual=True,
            intercept_scaling=10.0,
            class_weight={1: 2.0},
            max_iter=10_000,
            random_state=0,
        ).fit(X, y)
        self.weight = torch.from_numpy(machine.coef_[0]).to(self.positive.dtype)
        self.bias = torch.tensor(machine.intercept_[0], dtype=self.positive.dtype)
        stays = (self.margins(negative) >= EASY).tolist()
        self.negative = {number: x for (number, x), keep in zip(self.negative.items(), stays, strict=True) if keep}
        self.new = 0


def ridge(features: Tensor, offsets: Tensor, penalty: float = RIDGE) -> tuple[Tensor, Tensor]:
    """W and b of the offsets that features say, (N, P) and (N, 4) -> (4, P) and (4,); zeros without an example.

    Least Σ ‖t_i − W x_i − b‖² + λ ‖W‖² (appendix C, equation 5), b not penalised, where the authors have it as one
    more feature. Their whitening of the targets changes nothing in a fit that is linear in them.
    """
    if not len(features):
        return features.new_zeros(4, features.shape[1]), features.new_zeros(4)
    _, Ridge = scikit_learn()
    fitted = Ridge(alpha=penalty).fit(features.double().numpy(), offsets.double().numpy())
    return (
        torch.from_numpy(fitted.coef_).to(features.dtype),
        torch.from_numpy(fitted.intercept_).to(features.dtype),
    )


def to_norm(lengths: Tensor) -> float:
    """What brings features of these lengths, (N,), to a mean length of 20; 1 where all are zero."""
    mean = float(lengths.mean()) if len(lengths) else 0.0
    return NORM / mean if mean > 0 else 1.0

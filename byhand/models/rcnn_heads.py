"""What R-CNN says of a window from its features: a softmax while it learns, then support vector machines and a ridge.

Girshick, Donahue, Darrell & Malik, Rich feature hierarchies (2014), sections 2.2 and 2.3, appendices B and C.
"""

import torch
from torch import Tensor, nn

from byhand.models.detection_images import Size
from byhand.models.detection_nms import check_finite
from byhand.models.rcnn_fits import NEVER
from byhand.models.region_proposal import exact
from byhand.models.roi_heads import DetectionRules, best_detections

PLAIN = (1.0, 1.0, 1.0, 1.0)  # offsets of appendix C are not weighted


class Fitted(nn.Module):
    """x Wᵀ + b with weights that were fitted, not learned by steps: buffers, (K, D) -> (K, rows)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, num_features: int, rows: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(rows, num_features))
        self.register_buffer("bias", torch.zeros(rows))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class RCNNHeads(nn.Module):
    """Detections of one image from the features of its windows.

    ``cls_score``: logits of all classes, the background first; what the network learns by. ``svm`` has a row, and
    ``regression`` four, for each class; those of the background are not used. Both are zeros until ``completed``: so
    long scores are the softmax, and windows stay where they are. Afterwards a score is the sigmoid of the machine's
    margin, which keeps the order of the margins, that the paper ranks by, and puts ½ where a machine is undecided.

    ``mask_head`` is None, as in every detector without masks.
    """

    completed: Tensor

    def __init__(self, num_pooled: int, num_features: int, num_classes: int, rules: DetectionRules) -> None:
        super().__init__()
        self.rules, self.mask_head = rules, None
        self.cls_score = nn.Linear(num_features, num_classes)
        self.svm = Fitted(num_features, num_classes)
        self.regression = Fitted(num_pooled, 4 * num_classes)
        self.register_buffer("completed", torch.tensor(False))

    def forward(self, pooled: Tensor, features: Tensor, boxes: Tensor, size: Size) -> dict[str, Tensor]:
        """``boxes`` (N, 4), ``labels`` (N,) and ``scores`` (N,), best first, of windows in an image of that size."""
        if self.completed:
            margins, offsets = self.svm(features), self.regression(pooled)
            check_finite("margins", margins, "roi_heads.svm", "window")
            check_finite("offsets", offsets, "roi_heads.regression", "window")
            scores, offsets = torch.sigmoid(margins.to(exact(margins))), offsets.to(exact(offsets))
        else:
            scores = nn.functional.softmax(self.logits(features), -1)
            offsets = scores.new_zeros(len(scores), 4 * scores.shape[1])
        return best_detections(boxes, scores, offsets.reshape(*scores.shape, 4), size, self.rules, PLAIN)

    def logits(self, features: Tensor) -> Tensor:
        """What the softmax is taken of, (K, D) -> (K, num_classes)."""
        logits = self.cls_score(features)
        check_finite("class logits", logits, "roi_heads.cls_score", "window")
        return logits.to(exact(logits))

    def take(self, label: int, machine: tuple[Tensor, Tensor] | None, ridge: tuple[Tensor, Tensor]) -> None:
        """Nothing; puts what was fitted for a class into its rows. Without a machine the class is never answered."""
        if machine is None:
            self.svm.weight[label], self.svm.bias[label] = 0.0, NEVER
        else:
            self.svm.weight[label], self.svm.bias[label] = machine
        self.regression.weight[4 * label : 4 * label + 4], self.regression.bias[4 * label : 4 * label + 4] = ridge

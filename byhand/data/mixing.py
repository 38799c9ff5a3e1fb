"""Pairs of images mixed into one, with labels to match: mixup and CutMix.

As in `augment`: images are (N, C, H, W), uint8 with 0..255 or floating point, and all draws come from the given
generator, on its device. Partners are other images of the same batch, by a random permutation. The targets are shares
of the classes, float32 (N, num_classes), whose rows sum to 1: a loss that takes probabilities takes them as they are.
"""

import math

import torch
from torch import Generator, Tensor

from byhand.data.augment import batch_shape, grey_levels
from byhand.data.cutting import inside
from byhand.errors import SettingsError, ShapeError, TargetError

_PROPOSALS = 8  # of a gamma variate; at most one in twenty is refused, so that none is left once in 10¹⁰


def mixup(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    alpha: float = 0.2,
    probability: float = 1.0,
    *,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """λ·x_i + (1 − λ)·x_j and λ·y_i + (1 − λ)·y_j for each image i, with a random partner j of the batch.

    λ ~ Beta(α, α), drawn for each image; with `probability` under 1, the other images stay as they are (λ = 1). Labels
    are int64 (N,), y their one-hot vectors. Images keep shape and dtype; uint8 is rounded to whole levels.

    Zhang, Cisse, Dauphin & Lopez-Paz (2018), mixup: Beyond Empirical Risk Minimization, equation 1 and Figure 1a, where
    one λ is drawn for a whole batch; α is 0.2 to 0.4 for ImageNet and 1 for CIFAR-10 there.

    Raises:
        SettingsError: alpha is not a finite number above 0, or probability not in 0–1.
        ShapeError: images is not (N, C, H, W), or labels not (N,).
        TargetError: a label is not in 0..num_classes-1 (seen on a CPU only: looking would stop a GPU).
    """
    partner, share = _draw_pairs(images, labels, num_classes, alpha, probability, generator)
    part = share.reshape(-1, 1, 1, 1).to(images.device)
    if images.is_floating_point():
        part = part.to(images.dtype)
        mixed = part * images + (1 - part) * images[partner]
    else:
        mixed = grey_levels(part * images.float() + (1 - part) * images[partner].float())
    return mixed, _targets(labels, partner, share, num_classes)


def cutmix(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    alpha: float = 1.0,
    probability: float = 1.0,
    *,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Each image with a rectangle of a random partner's in the same place, and the labels by their shares of the area.

    With λ ~ Beta(α, α) for each image, the rectangle has √(1 − λ) of the height and of the width, in whole pixels; its
    middle is uniform over the image, and what lies outside is cut off. The label of the image then counts as much as
    the area that is left of it, the partner's as much as the rectangle. With `probability` under 1, the other images
    stay as they are. Labels are int64 (N,); images keep shape and dtype.

    Yun, Han, Oh, Chun, Choe & Yoo (2019), CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features, equations 1 and 2 and Algorithm A1 (α = 1), where one rectangle is drawn for a whole batch.

    Raises:
        SettingsError: alpha is not a finite number above 0, or probability not in 0–1.
        ShapeError: images is not (N, C, H, W), or labels not (N,).
        TargetError: a label is not in 0..num_classes-1 (seen on a CPU only: looking would stop a GPU).
    """
    num_images, _, height, width = batch_shape(images)
    partner, share = _draw_pairs(images, labels, num_classes, alpha, probability, generator)
    draws = torch.rand(2, num_images, generator=generator, device=generator.device)
    side = torch.sqrt((1 - share).clamp(min=0))
    top, bottom = _ends(draws[0], side, height)
    left, right = _ends(draws[1], side, width)
    replaced = inside(top, left, bottom - top, right - left, height, width).to(images.device)  # (N, 1, H, W)
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return torch.where(replaced, images[partner], images), _targets(labels, partner, share, num_classes)


def _ends(draw: Tensor, side: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """Where a piece of side·extent pixels around a uniform pixel begins and ends, cut off at 0 and extent."""
    length = (side * extent).long()
    start = (draw * extent).long() - length // 2
    return start.clamp(min=0), (start + length).clamp(max=extent)


def _draw_pairs(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, probability: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """The partner of each image, int64 (N,) on the images' device, and λ, (N,) on the generator's."""
    num_images = batch_shape(images)[0]
    if labels.shape != (num_images,) or labels.is_floating_point():
        raise ShapeError(f"labels {tuple(labels.shape)} of {labels.dtype} must be int64 ({num_images},), one an image")
    if not 0 < alpha <= 1e6:
        raise SettingsError(f"alpha={alpha} must be a finite number above 0; 1 makes every mixture equally likely")
    if not 0 <= probability <= 1:
        raise SettingsError(f"probability={probability} must be in 0–1")
    if labels.device.type == "cpu" and num_images and not 0 <= labels.min() <= labels.max() < num_classes:
        raise TargetError(f"labels run from {labels.min()} to {labels.max()}, expected 0..{num_classes - 1}")
    partner = torch.randperm(num_images, generator=generator, device=generator.device)
    share = symmetric_beta(alpha, num_images, generator)
    chosen = torch.rand(num_images, generator=generator, device=generator.device) < probability
    return partner.to(images.device), torch.where(chosen, share, 1.0)


def symmetric_beta(alpha: float, n: int, generator: Generator) -> Tensor:
    """n draws from Beta(α, α), float32 (n,) on the generator's device; as many numbers are drawn whatever comes out.

    G₁ / (G₁ + G₂) of two gamma variates of shape α. For a shape a ≥ 1, with d = a − 1/3, c = 1/√(9d), x ~ N(0, 1) and
    u ~ U(0, 1): d·(1 + cx)³ is one if 1 + cx > 0 and log u < x²/2 + d − dv + d log v, v = (1 + cx)³. For a < 1 it is
    the variate of shape a + 1 times u^(1/a). Logarithms throughout: for a small α both are smaller than any float.

    Marsaglia & Tsang (2000), A Simple Method for Generating Gamma Variables, sections 4 and 6. The first of eight
    proposals that is accepted is taken, where the method goes on for ever: a loop would have to look at each result.
    """
    shape = alpha if alpha >= 1 else alpha + 1
    d = shape - 1 / 3
    sizes = (_PROPOSALS, 2, n)
    x = torch.randn(sizes, generator=generator, device=generator.device)
    u = torch.rand((_PROPOSALS + 1, 2, n), generator=generator, device=generator.device).clamp(min=1e-37)
    root = 1 + x / math.sqrt(9 * d)
    log_v = 3 * torch.log(root.clamp(min=1e-12))
    accepted = (root > 0) & (torch.log(u[:-1]) < x**2 / 2 + d - d * torch.exp(log_v) + d * log_v)
    first = accepted.long().argmax(0, keepdim=True)  # the first of the greatest
    log_gamma = log_v.gather(0, first).squeeze(0)  # (2, n); the factor d falls out of the quotient
    if alpha < 1:
        log_gamma = log_gamma + torch.log(u[-1]) / alpha
    return 1 / (1 + torch.exp(log_gamma[1] - log_gamma[0]))


def _targets(labels: Tensor, partner: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """(N, num_classes): the image's share at its own label, the rest at its partner's; both in one place if equal."""
    share = share.to(labels.device, torch.float32).unsqueeze(1)
    targets = torch.zeros(len(labels), num_classes, device=labels.device)
    targets.scatter_add_(1, labels.long().unsqueeze(1), share)
    return targets.scatter_add_(1, labels[partner.to(labels.device)].long().unsqueeze(1), 1 - share)

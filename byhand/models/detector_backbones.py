"""What detectors look at images with: networks of classification without their heads, under a feature pyramid."""

from collections.abc import Mapping, Sequence

from torch import nn

from byhand.errors import SettingsError
from byhand.models.feature_pyramid import Backbone, FeaturePyramid, Stages
from byhand.models.frozen_norm import freeze_norms
from byhand.models.linear import check_counts
from byhand.models.mobile_v3 import mobilenet_v3_large
from byhand.models.resnet import BasicBlock, resnet50, stage
from byhand.models.vgg import initialise_vgg, vgg_features

RESNET = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))  # the stages that learn or stand still
# The first block, each that halves the map, and the last convolution; with what lies between.
MOBILENET = tuple(tuple(map(str, range(*ends))) for ends in ((0, 2), (2, 4), (4, 7), (7, 13), (13, 16), (16, 17)))

VGG16 = tuple(tuple(map(str, range(*ends))) for ends in ((0, 5), (5, 10), (10, 17), (17, 24), (24, 30)))


def resnet50_pyramid(trainable: int | None, frozen_norm: bool, norm_eps: float) -> Backbone:
    """ResNet-50's last four stages under a pyramid of 256 channels."""
    body = resnet50(num_classes=1)
    if frozen_norm:
        freeze_norms(body, norm_eps)
    stages = Stages(body.named_children(), {f"layer{i + 1}": str(i) for i in range(4)})
    train_only(stages, RESNET, trainable, 3 if frozen_norm else 5)
    return Backbone(stages, FeaturePyramid((256, 512, 1024, 2048), 256), 256)


def mobilenet_pyramid(trainable: int | None, frozen_norm: bool) -> Backbone:
    """MobileNetV3-Large's last stride and its last convolution under a pyramid of 256 channels.

    ε of the norms is 1e-5 here, as in torchvision, and not the classifier's 1e-3.
    """
    features = mobilenet_v3_large(num_classes=1).features
    assert isinstance(features, nn.Module)
    if frozen_norm:
        freeze_norms(features)
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-5, 0.1
    stages = Stages(features.named_children(), {"13": "0", "16": "1"})
    train_only(stages, MOBILENET, trainable, 3 if frozen_norm else 6)
    return Backbone(stages, FeaturePyramid((160, 960), 256), 256)


def small_pyramid(width: int) -> Backbone:
    """Three blocks of ResNet-18 at strides 4, 8 and 16, the last two under a pyramid of 2 · ``width`` channels."""
    body = small_body(width, (2, 2, 2), {"layer2": "0", "layer3": "1"})
    return Backbone(body, FeaturePyramid((4 * width, 8 * width), 2 * width, pool=False), 2 * width)


def small_map(width: int) -> Backbone:
    """The first two of these blocks: a single map of stride 8 and 4 · ``width`` channels."""
    return Backbone(small_body(width, (2, 2), {"layer2": "0"}), None, 4 * width)


def small_body(width: int, strides: Sequence[int], returned: Mapping[str, str]) -> Stages:
    """A convolution of stride 2 and a block of ResNet-18 for each of ``strides``, each of twice the channels."""
    check_counts(width=width)
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(),
    }
    for i, stride in enumerate(strides, 1):
        layers[f"layer{i}"] = stage(BasicBlock, 1, width * 2 ** (i - 1), width * 2**i, stride)
    body = Stages(layers.items(), returned)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return body


def vgg16_map(trainable: int | None) -> Backbone:
    """VGG-16's 13 convolutions without the last pooling: a single map of stride 16 and 512 channels."""
    features = nn.Sequential(*vgg_features(16))
    initialise_vgg(features)
    body = Stages(features.named_children(), {"29": "0"})
    train_only(body, VGG16, trainable, 5)
    return Backbone(body, None, 512)


def train_only(body: Stages, stages: Sequence[Sequence[str]], trainable: int | None, default: int) -> None:
    """None; afterwards only the last ``trainable`` stages of the body learn."""
    count = default if trainable is None else trainable
    if not 0 <= count <= len(stages):
        raise SettingsError(f"trainable_backbone_layers={trainable} must lie in 0..{len(stages)}")
    for name in [name for names in stages[: len(stages) - count] for name in names]:
        for parameter in body.get_submodule(name).parameters():
            parameter.requires_grad_(False)

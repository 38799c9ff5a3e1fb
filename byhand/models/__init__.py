"""The networks, each written once with torch.nn.

To add one: a file with its constructor, and a line in NETWORKS. The proof, the tables of ``show`` and the tests follow.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from byhand.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True)
class Network:
    """A network's name on the command line, its constructor, and the shape of one input: (C, H, W) or (d,)."""

    name: str
    constructor: str  # module:function below byhand.models; imported when the network is built, as it needs torch
    input_shape: tuple[int, ...]
    title: str
    source: str

    def build(self, **options) -> "Module":
        """The network, freshly initialised; raises SettingsError for an option that its constructor does not take."""
        known, parameters = self.options(), inspect.signature(self._construct()).parameters
        hands_on = len(parameters) > len(known)  # to another constructor, which checks them
        for name in options:
            if name not in known and not hands_on:
                raise SettingsError(f"network {self.name!r} takes no option {name!r}; it takes: {', '.join(known)}")
        return self._construct()(**options)

    def options(self) -> tuple[str, ...]:
        """The names of what its constructor takes, but not of what it hands on as ``**options``."""
        parameters = inspect.signature(self._construct()).parameters.values()
        return tuple(one.name for one in parameters if one.kind is not one.VAR_KEYWORD)

    def _construct(self) -> Callable[..., "Module"]:
        module, function = self.constructor.split(":")
        return getattr(importlib.import_module(f"byhand.models.{module}"), function)


NETWORKS: tuple[Network, ...] = (
    Network("linear-regression", "linear:linear_regression", (3,), "Linear regression", "D2L 3.1"),
    Network("softmax-regression", "linear:softmax_regression", (1, 28, 28), "Softmax regression", "D2L 3.4"),
    Network("mlp", "perceptron:mlp", (1, 28, 28), "Multilayer perceptron 784-256-128-10", "D2L 4.1"),
    Network("lenet5", "lenet:lenet5", (1, 32, 32), "LeNet-5", "LeCun et al. 1998; D2L 6.6"),
    Network(
        "lenet5-bn",
        "lenet_bn:lenet5_bn",
        (1, 32, 32),
        "LeNet-5 with batch normalisation",
        "Ioffe & Szegedy 2015; D2L 7.5",
    ),
    Network("alexnet", "alexnets:alexnet", (3, 224, 224), "AlexNet, torchvision's", "Krizhevsky 2014; D2L 7.1"),
    Network("alexnet2012", "alexnets:alexnet2012", (3, 224, 224), "AlexNet, the paper's", "Krizhevsky et al. 2012"),
    Network("vgg11", "vgg:vgg11", (3, 224, 224), "VGG-11", "Simonyan & Zisserman 2015; D2L 7.2"),
    Network("vgg13", "vgg:vgg13", (3, 224, 224), "VGG-13", "Simonyan & Zisserman 2015"),
    Network("vgg16", "vgg:vgg16", (3, 224, 224), "VGG-16", "Simonyan & Zisserman 2015"),
    Network("vgg19", "vgg:vgg19", (3, 224, 224), "VGG-19", "Simonyan & Zisserman 2015"),
    Network("vgg11_bn", "vgg:vgg11_bn", (3, 224, 224), "VGG-11 with batch normalisation", "torchvision"),
    Network("vgg13_bn", "vgg:vgg13_bn", (3, 224, 224), "VGG-13 with batch normalisation", "torchvision"),
    Network("vgg16_bn", "vgg:vgg16_bn", (3, 224, 224), "VGG-16 with batch normalisation", "torchvision"),
    Network("vgg19_bn", "vgg:vgg19_bn", (3, 224, 224), "VGG-19 with batch normalisation", "torchvision"),
    Network("nin", "network_in_network:nin", (3, 224, 224), "Network in Network", "Lin et al. 2014; D2L 7.3"),
    Network(
        "googlenet", "inception:googlenet", (3, 224, 224), "GoogLeNet (Inception v1)", "Szegedy et al. 2015; D2L 7.4"
    ),
    Network("resnet18", "resnet:resnet18", (3, 224, 224), "ResNet-18", "He et al. 2016, table 1"),
    Network("resnet34", "resnet:resnet34", (3, 224, 224), "ResNet-34", "He et al. 2016, table 1"),
    Network("resnet50", "resnet:resnet50", (3, 224, 224), "ResNet-50", "He et al. 2016, table 1"),
    Network("resnet101", "resnet:resnet101", (3, 224, 224), "ResNet-101", "He et al. 2016, table 1"),
    Network("resnet152", "resnet:resnet152", (3, 224, 224), "ResNet-152", "He et al. 2016, table 1"),
    Network("resnext50_32x4d", "resnet:resnext50_32x4d", (3, 224, 224), "ResNeXt-50 32×4d", "Xie et al. 2017, table 1"),
    Network("resnext101_32x8d", "resnet:resnext101_32x8d", (3, 224, 224), "ResNeXt-101 32×8d", "Xie et al. 2017"),
    Network(
        "wide_resnet50_2", "resnet:wide_resnet50_2", (3, 224, 224), "Wide ResNet-50-2", "Zagoruyko & Komodakis 2016"
    ),
    Network(
        "wide_resnet101_2", "resnet:wide_resnet101_2", (3, 224, 224), "Wide ResNet-101-2", "Zagoruyko & Komodakis 2016"
    ),
    Network("resnet20", "resnet_cifar:resnet20", (3, 32, 32), "ResNet-20 for CIFAR", "He et al. 2016, section 4.2"),
    Network("resnet32", "resnet_cifar:resnet32", (3, 32, 32), "ResNet-32 for CIFAR", "He et al. 2016, section 4.2"),
    Network("resnet44", "resnet_cifar:resnet44", (3, 32, 32), "ResNet-44 for CIFAR", "He et al. 2016, section 4.2"),
    Network("resnet56", "resnet_cifar:resnet56", (3, 32, 32), "ResNet-56 for CIFAR", "He et al. 2016, section 4.2"),
    Network("resnet110", "resnet_cifar:resnet110", (3, 32, 32), "ResNet-110 for CIFAR", "He et al. 2016, section 4.2"),
    Network(
        "preact_resnet20", "resnet_cifar:preact_resnet20", (3, 32, 32), "Pre-activation ResNet-20", "He et al. 2016b"
    ),
    Network(
        "preact_resnet32", "resnet_cifar:preact_resnet32", (3, 32, 32), "Pre-activation ResNet-32", "He et al. 2016b"
    ),
    Network(
        "preact_resnet44", "resnet_cifar:preact_resnet44", (3, 32, 32), "Pre-activation ResNet-44", "He et al. 2016b"
    ),
    Network(
        "preact_resnet56", "resnet_cifar:preact_resnet56", (3, 32, 32), "Pre-activation ResNet-56", "He et al. 2016b"
    ),
    Network(
        "preact_resnet110", "resnet_cifar:preact_resnet110", (3, 32, 32), "Pre-activation ResNet-110", "He et al. 2016b"
    ),
    Network(
        "preact_resnet164", "resnet_cifar:preact_resnet164", (3, 32, 32), "Pre-activation ResNet-164", "He et al. 2016b"
    ),
    Network("densenet121", "densenet:densenet121", (3, 224, 224), "DenseNet-121", "Huang et al. 2017, table 1"),
    Network("densenet161", "densenet:densenet161", (3, 224, 224), "DenseNet-161", "Huang et al. 2017, table 1"),
    Network("densenet169", "densenet:densenet169", (3, 224, 224), "DenseNet-169", "Huang et al. 2017, table 1"),
    Network("densenet201", "densenet:densenet201", (3, 224, 224), "DenseNet-201", "Huang et al. 2017, table 1"),
    Network(
        "densenet_cifar", "densenet:densenet_cifar", (3, 32, 32), "DenseNet-BC L=100 k=12", "Huang et al. 2017, table 2"
    ),
    Network("mobilenet_v1", "mobile_v1:mobilenet_v1", (3, 224, 224), "MobileNet V1", "Howard et al. 2017"),
    Network("mobilenet_v2", "mobile_v2:mobilenet_v2", (3, 224, 224), "MobileNet V2", "Sandler et al. 2018"),
    Network(
        "mobilenet_v3_small",
        "mobile_v3:mobilenet_v3_small",
        (3, 224, 224),
        "MobileNet V3 small",
        "Howard et al. 2019",
    ),
    Network(
        "mobilenet_v3_large",
        "mobile_v3:mobilenet_v3_large",
        (3, 224, 224),
        "MobileNet V3 large",
        "Howard et al. 2019",
    ),
)


# Not among NETWORKS, as they take a list of images and give boxes: no logits of one input that a proof could compare.
# What can be proven is inside: prove(DetectorLayers(detector), images) of detector_layers.py.
DETECTORS: tuple[Network, ...] = (
    Network("fastrcnn_small", "fast_rcnn:fastrcnn_small", (3, 240, 320), "Fast R-CNN, small", "Girshick 2015"),
    Network("fastrcnn_vgg16", "fast_rcnn:fastrcnn_vgg16", (3, 600, 800), "Fast R-CNN, VGG-16", "Girshick 2015"),
    Network(
        "fasterrcnn_small", "faster_rcnn:fasterrcnn_small", (3, 240, 320), "Faster R-CNN, small", "Ren et al. 2015"
    ),
    Network(
        "fasterrcnn_resnet50_c4",
        "faster_rcnn:fasterrcnn_resnet50_c4",
        (3, 800, 1056),
        "Faster R-CNN, ResNet-50 without a pyramid",
        "Ren et al. 2015",
    ),
    Network(
        "fasterrcnn_resnet50_fpn",
        "faster_rcnn:fasterrcnn_resnet50_fpn",
        (3, 800, 1056),
        "Faster R-CNN, ResNet-50 with a pyramid",
        "Lin et al. 2017; torchvision",
    ),
    Network(
        "fasterrcnn_mobilenet_v3_large_fpn",
        "faster_rcnn:fasterrcnn_mobilenet_v3_large_fpn",
        (3, 800, 1056),
        "Faster R-CNN, MobileNet V3 large with a pyramid",
        "torchvision",
    ),
    Network(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "faster_rcnn:fasterrcnn_mobilenet_v3_large_320_fpn",
        (3, 320, 416),
        "The same for images of 320 pixels",
        "torchvision",
    ),
    Network("maskrcnn_small", "mask_rcnn:maskrcnn_small", (3, 240, 320), "Mask R-CNN, small", "He et al. 2017"),
    Network(
        "maskrcnn_resnet50_fpn",
        "mask_rcnn:maskrcnn_resnet50_fpn",
        (3, 800, 1056),
        "Mask R-CNN, ResNet-50 with a pyramid",
        "He et al. 2017; torchvision",
    ),
)

# What a detector's plain name means.
SHORT = {"fastrcnn": "fastrcnn_small", "fasterrcnn": "fasterrcnn_small", "maskrcnn": "maskrcnn_small"}
SEARCHING = ("rcnn", "fastrcnn")  # what the names of those begin with whose proposals are searched in every new image

FIRST = NETWORKS[:4]  # of chapters 3 to 6, small enough for anything in seconds


def network(name: str) -> Network:
    """The entry of that name in NETWORKS; raises UnknownName."""
    for entry in NETWORKS:
        if entry.name == name:
            return entry
    raise unknown_name("network", name, (entry.name for entry in NETWORKS))


def detector(name: str) -> Network | None:
    """The entry of that name in DETECTORS, or of the short one; None where it is none of them."""
    return next((entry for entry in DETECTORS if entry.name == SHORT.get(name, name)), None)


def searches(name: str) -> bool:
    """Whether the detector's proposals come from a search in the image, which only an unchanged one saves."""
    return name.startswith(SEARCHING)


def build(name: str, **options) -> "Module":
    """A network or detector by its name, freshly initialised: ``build("lenet5", activation="tanh")``."""
    entry = detector(name) or network(name)
    return entry.build(**options)


def __getattr__(name: str):
    """Constructors by their own names, as in ``byhand.models.lenet5(num_classes=10)``."""
    for entry in (*NETWORKS, *DETECTORS):
        module, function = entry.constructor.split(":")
        if function == name:
            return getattr(importlib.import_module(f"byhand.models.{module}"), function)
    raise AttributeError(f"module 'byhand.models' has no attribute {name!r}")

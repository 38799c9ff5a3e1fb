"""A state dict into a network: published names brought to ours, a head of other classes left out, misfits in one error.

``byhand.pretrained.load_weights`` reads the file or the address; here is what follows.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from byhand.errors import RunError

# GoogLeNet's heads in the middle: they serve training only, and published files have them or not.
_AUXILIARY = re.compile(r"aux\d*\.")

# Names before torch 0.4.1 allowed no dot in a module's name; torchvision's DenseNets are still published with them.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.[a-z_]+)")

# Names of detectors before torchvision 0.13; the Faster and Mask R-CNN of 2019 are still published with them.
_OLD_DETECTORS = (
    (re.compile(r"(.*fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"), r"\1.0.\2"),
    (re.compile(r"(.*rpn\.head\.conv)\.(weight|bias)"), r"\1.0.0.\2"),
)
_OLD_MASK_HEAD = re.compile(r"(.*mask_head)\.mask_fcn(\d+)\.(weight|bias)")

_OF_CLASSES = re.compile(
    r"roi_heads\.(?:box_predictor\.(?:cls_score|bbox_pred)|mask_predictor\.mask_fcn_logits|cls_score|svm|regression)"
    r"\.weight"
)

COUNT, VAR = "num_batches_tracked", "running_var"  # of batch normalisation

_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile put these before every name
_NESTED = ("state_dict", "model")  # where training scripts keep the weights beside the optimizer's state
_NAMED = 3  # names of each kind in an error


@dataclass(frozen=True)
class Loaded:
    """What a network took from a file, and what of it stays as it was.

    ``head`` names the layers that stay because the file has ``classes_in_file`` classes and the network
    ``num_classes``; it is empty, and both are 0, where the head was loaded too. ``new_heads`` are auxiliary heads of
    the network that the file lacks, ``unused_heads`` those of the file that the network was built without.
    """

    source: str
    num_loaded: int  # tensors
    head: tuple[str, ...] = ()
    classes_in_file: int = 0
    num_classes: int = 0
    new_heads: tuple[str, ...] = ()
    unused_heads: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.num_loaded} tensors loaded"]
        if self.head:
            classes = f"{self.classes_in_file} classes in the file, {self.num_classes} in the network"
            parts.append(f"the head ({', '.join(self.head)}) is new: {classes}")
        if self.new_heads:
            parts.append(f"{', '.join(self.new_heads)} new: not in the file")
        if self.unused_heads:
            parts.append(f"{', '.join(self.unused_heads)} of the file not used: the network was built without")
        return "; ".join(parts)


def take_weights(network: nn.Module, content: Any, source: str = "the state dict") -> Loaded:
    """What was loaded; afterwards the network has the values of ``content``, or on an error those that it had.

    ``content`` is a state dict, or holds one under "state_dict" or "model". Taken off or put right are "module." before
    every name, torchvision's old DenseNet names (norm.1 for norm1), and a missing num_batches_tracked. Where only the
    number of classes differs, the network keeps its own head, freshly initialised if it is a new network. Auxiliary
    heads (aux1, aux2) may be lacking or in excess as a whole. Values take the network's dtype and device.

    Raises:
        RunError: there is no state dict in it, or missing, unexpected and misshapen names, all in one error; nothing
            is loaded then. Or a number that is infinite or NaN.
    """
    own = network.state_dict()
    found = _names_as_in(own, state_dict_in(content, source))
    shapes = {key: (_shape(found[key]), _shape(own[key])) for key in own if key in found}
    classes = _other_classes(head_of(network), shapes)
    head = tuple(dict.fromkeys(_layer(key) for key, pair in shapes.items() if _differ_only_by(classes, *pair)))
    new_heads, unused_heads = _auxiliary(own, found), _auxiliary(found, own)

    missing = [key for key in own if key not in found and not key.endswith(COUNT)]
    # a frozen normalisation counts no batches
    unexpected = [key for key in found if key not in own and not key.endswith(COUNT)]
    missing = [key for key in missing if _layer(key) not in head and not key.startswith(_dotted(new_heads))]
    unexpected = [key for key in unexpected if _layer(key) not in head and not key.startswith(_dotted(unused_heads))]
    taken = {key: found[key] for key in shapes if _layer(key) not in head}
    misshapen = [
        f"{key} is {_kind(value)}, expected {_kind(own[key])}"
        for key, value in taken.items()
        if _kind(value) != _kind(own[key])
    ]
    faults = [("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)]
    if any(names for _, names in faults):
        listed = "; ".join(f"{len(names)} {fault} ({_few(names)})" for fault, names in faults if names)
        raise RunError(
            f"{source} does not fit this {type(network).__name__}: {listed}. Nothing was loaded; build the network "
            "that the file was made with"
        )
    for key, value in taken.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise RunError(
                f"{source} holds numbers that are infinite or NaN in {key}; nothing was loaded, take another"
            )
    # a frozen normalisation sees by them that the other one learned
    counted = {key: value for key, value in found.items() if key.endswith(COUNT) and key.replace(COUNT, VAR) in taken}
    network.load_state_dict({**own, **counted, **taken})
    return Loaded(source, len(taken), head, *(classes or (0, 0)), new_heads, unused_heads)


def head_of(network: nn.Module) -> str:
    """The path of the layer that gives the logits, such as "fc" or "classifier.6": the last with a matrix or kernels.

    In a detector it is the one that scores the boxes. It is "" for a network that is itself this layer, or has none.
    """
    of_detector = _detector_heads(network)
    if of_detector:
        return of_detector[0]
    for key, value in reversed(network.state_dict().items()):
        if key.rpartition(".")[2] == "weight" and value.ndim >= 2:
            return _layer(key)
    return ""


def heads_of(network: nn.Module) -> tuple[str, ...]:
    """The paths of ``head_of`` and of the auxiliary heads: what is made anew for other classes; the rest is the body.

    In a detector all that depends on the classes: their scores, their offsets, their masks.
    """
    found = (match[0].rstrip(".") for key in network.state_dict() if (match := _AUXILIARY.match(key)))
    return tuple(dict.fromkeys((head_of(network), *_detector_heads(network), *found)))


def _detector_heads(network: nn.Module) -> list[str]:
    """The layers of a detector that have a row for each class, the scores first; none in other networks."""
    return [_layer(key) for key in network.state_dict() if _OF_CLASSES.fullmatch(key)]


def state_dict_in(content: Any, source: str) -> dict[str, Any]:
    """The mapping from names to tensors; what is wrapped in others is found under the usual names.

    Raises RunError where there is none.
    """
    for _ in range(3):  # a file may also hold a mapping that contains itself
        if not isinstance(content, Mapping):
            break
        content = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = f"a dict with {_few([str(key) for key in content])}" if isinstance(content, Mapping) and content else ""
        raise RunError(
            f"{source} holds no weights but {keys or f'a {type(content).__name__}'}; expected tensors by name, at the "
            f"top or under {' or '.join(map(repr, _NESTED))}"
        )
    return {str(key): value for key, value in content.items()}


def _names_as_in(own: Mapping[str, Tensor], found: dict[str, Any]) -> dict[str, Any]:
    """The same values by the names that the network has for them."""
    wrapped = True
    while wrapped:
        wrapped = False
        for prefix in _WRAPPERS:
            if all(key.startswith(prefix) for key in found) and not any(key.startswith(prefix) for key in own):
                found = {key.removeprefix(prefix): value for key, value in found.items()}
                wrapped = True
    return {_renamed(key, own): value for key, value in found.items()}


def _renamed(key: str, own: Mapping[str, Tensor]) -> str:
    return key if key in own else current_name(key)


def current_name(key: str) -> str:
    """Today's name of a weight that torchvision once published under another; any other name as it is."""
    if old := _OLD_DENSENET.fullmatch(key):
        return old[1] + old[2]
    if old := _OLD_MASK_HEAD.fullmatch(key):
        return f"{old[1]}.{int(old[2]) - 1}.0.{old[3]}"  # counted from 1
    for pattern, new in _OLD_DETECTORS:
        if old := pattern.fullmatch(key):
            return old.expand(new)
    return key


def _other_classes(head: str, shapes: Mapping[str, tuple[tuple, tuple]]) -> tuple[int, int] | None:
    """The classes in the file and in the network where the head's weights differ in nothing else, else None."""
    theirs, ours = shapes.get(f"{head}.weight" if head else "weight", ((), ()))
    if not theirs or not ours or theirs[0] == ours[0]:
        return None
    classes = theirs[0], ours[0]
    return classes if _differ_only_by(classes, theirs, ours) else None


def _differ_only_by(classes: tuple[int, int] | None, theirs: tuple, ours: tuple) -> bool:
    """Whether two shapes differ, and only where one has the file's number of classes and the other the network's.

    A detector also has four offsets for each class.
    """
    if classes is None or theirs == ours or len(theirs) != len(ours):
        return False
    offsets = (4 * classes[0], 4 * classes[1])
    return all(pair in (classes, offsets) or pair[0] == pair[1] for pair in zip(theirs, ours, strict=True))


def _auxiliary(here: Iterable[str], there: Iterable[str]) -> tuple[str, ...]:
    """The auxiliary heads of which one side has names and the other none at all."""
    heads = {match[0] for key in there if (match := _AUXILIARY.match(key))}
    only_here = dict.fromkeys(match[0] for key in here if (match := _AUXILIARY.match(key)))
    return tuple(head.rstrip(".") for head in only_here if head not in heads)


def _dotted(heads: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{head}." for head in heads)


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _kind(value: Any) -> str:
    """What two values must agree in so that one can be copied over the other: shape, number or count, memory."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    number = "" if value.is_floating_point() else " of complex numbers" if value.is_complex() else " of whole numbers"
    layout = str(value.layout).removeprefix("torch.")
    return f"{tuple(value.shape)}{number}{'' if layout == 'strided' else f' {layout}'}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

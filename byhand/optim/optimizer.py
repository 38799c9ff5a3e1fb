"""What SGD, Adam and AdamW share: parameter groups, state, and the loop over them; a rule adds its `update`."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError

Group = dict[str, Any]
Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Group]

# torch's switches between its several implementations of one formula
SWITCHES = ("foreach", "fused", "capturable", "differentiable")


class ParamsError(SettingsError, TypeError):
    """Parameters in a form that no optimizer takes; a TypeError too, because that is what torch raises there."""


def check_number(settings: Group, name: str, below: float = math.inf) -> None:
    """Nothing, if 0 <= settings[name] < below; NaN, infinity and what is no number are a SettingsError."""
    value = settings[name]
    if isinstance(value, Tensor) and value.numel() != 1:
        raise SettingsError(
            f"{name} is a tensor of shape {tuple(value.shape)}; give a number, or a tensor of one element"
        )
    try:
        allowed = 0.0 <= value < below
    except TypeError:
        allowed = False
    if not allowed:
        upper = "finite" if below == math.inf else f"below {below:g}"
        raise SettingsError(f"{name}={value!r} must be a number of at least 0 and {upper}")


class Optimizer:
    """Holds parameters in groups, a state for each parameter, and calls `update` for each gradient in turn.

    Groups, state and both kinds of dictionary have the form of torch's optimizers, so a state dict goes from here to
    there and back. A rule writes `update`, and `check` for the settings that it reads from a group.

    Deviations from torch: settings given for one group are checked like the defaults; a loaded state is a copy;
    gradients are dense and real; there are no hooks.
    """

    def __init__(self, params: Params, defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise ParamsError(
                "params is a single tensor; give a list of tensors, such as [weight] or model.parameters()"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self.check(defaults)
        entries: list[Any] = list(params)
        if not entries:
            raise SettingsError(
                "params is empty; give at least one tensor to optimize (an iterator can be read only once)"
            )
        if not isinstance(entries[0], dict):
            entries = [{"params": entries}]
        for group in entries:
            self.add_param_group(group)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: Group) -> None:
        """Nothing; moves `param` in place by one step against `grad`, which is left as it is."""
        raise NotImplementedError(f"{type(self).__name__} must write update(param, grad, state, group)")

    def check(self, settings: Group) -> None:
        """Nothing, if the rule can work with these settings; else a SettingsError."""
        for name in SWITCHES:
            if settings.get(name):
                raise SettingsError(
                    f"{name}=True is not offered: by hand there is one way; leave {name} at its default"
                )

    def add_param_group(self, param_group: Group) -> None:
        """Nothing; `param_group["params"]` joins the optimized parameters, with its own settings before the defaults.

        Raises SettingsError for a parameter that is in a group already, computed from others, or complex.
        """
        if not isinstance(param_group, dict):
            raise ParamsError(
                f"param_group is a {type(param_group).__name__}; give a dict such as {{'params': [weight], 'lr': 0.1}}"
            )
        if "params" not in param_group:
            raise SettingsError(
                f"param_group has the keys {sorted(param_group)} and no 'params'; name its tensors there"
            )
        group = {**param_group, "params": _listed(param_group["params"])}
        named = [isinstance(entry, tuple) for entry in group["params"]]
        if any(named):
            if not all(named):
                raise SettingsError(
                    "some parameters have a name and some have none; give all of them as (name, tensor) or none"
                )
            group["param_names"] = [name for name, _ in group["params"]]
            group["params"] = [param for _, param in group["params"]]
        for index, param in enumerate(group["params"]):
            _check_param(param, index)
        for name, default in self.defaults.items():
            group.setdefault(name, default)
        self.check(group)
        self._check_membership(group)
        self.param_groups.append(group)

    def _check_membership(self, group: Group) -> None:
        if len(set(group["params"])) < len(group["params"]):
            warnings.warn("a parameter stands twice in one group; it will be updated twice in each step", stacklevel=4)
        for other in self.param_groups:
            if not set(other["params"]).isdisjoint(group["params"]):
                raise SettingsError("a parameter appears in more than one parameter group; keep it in one of them")
            if ("param_names" in other) != ("param_names" in group):
                raise SettingsError("one parameter group has names and another has none; name all groups or none")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The loss that `closure` returned, or None; every parameter that has a gradient is moved by one step.

        `closure` computes the loss and its gradients anew; it runs before the step, with gradients enabled.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                maximize = group["maximize"]
                for param in group["params"]:
                    grad = param.grad
                    if grad is None:
                        continue
                    if grad.layout is not torch.strided:
                        raise SettingsError(
                            f"the gradient of a parameter of shape {tuple(param.shape)} is sparse ({grad.layout}); "
                            "make it dense, for example with sparse=False in the embedding"
                        )
                    self.update(param, -grad if maximize else grad, self.state[param], group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing; every gradient becomes None, or zero in place where `set_to_none` is False."""
        for group in self.param_groups:
            for param in group["params"]:
                if set_to_none:
                    param.grad = None
                elif param.grad is not None:
                    param.grad = param.grad.detach().zero_()

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: state}, "param_groups": [...]} in torch's form, parameters counted through all groups.

        The tensors are the optimizer's own, not copies, as in torch.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        index_of = {param: index for index, param in reversed(list(enumerate(params)))}
        groups = [{**group, "params": [index_of[param] for param in group["params"]]} for group in self.param_groups]
        # a rule that keeps nothing (SGD without momentum) has no entry in torch's dictionary either
        state = {index_of[param]: kept for param, kept in self.state.items() if kept}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing; settings and state are those of `state_dict` (from here or from torch), the parameters stay.

        State takes the dtype and device of its parameter, except the step counter. Nothing changes where it raises:
        SettingsError for another number or size of groups or settings that are missing, ShapeError for a state tensor
        of another shape than its parameter.
        """
        saved_groups = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [len(group["params"]) for group in saved_groups]
        if sizes != saved_sizes:
            raise SettingsError(
                f"the state dict has groups of {saved_sizes} parameters, this optimizer of {sizes}; "
                "it belongs to another network or to other parameter groups"
            )
        groups: list[Group] = []
        param_of: dict[Any, Tensor] = {}
        for own, saved in zip(self.param_groups, saved_groups, strict=True):
            groups.append(self._loaded_group(own, saved))
            param_of.update(zip(saved["params"], own["params"], strict=True))
        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for index, saved in state_dict["state"].items():
            if index not in param_of:
                raise SettingsError(f"the state dict has state for parameter {index}, and no group that holds it")
            param = param_of[index]
            state[param] = {name: _loaded_value(param, index, name, value) for name, value in saved.items()}
        self.state, self.param_groups = state, groups

    def _loaded_group(self, own: Group, saved: Group) -> Group:
        group = {**saved, "params": own["params"]}
        if "param_names" in own:
            group.setdefault("param_names", own["param_names"])
        for name, default in self.defaults.items():
            if name not in group:
                # older torch wrote fewer switches, and worked as they do when off
                if not (default is None or isinstance(default, bool)):
                    raise SettingsError(
                        f"the state dict has no {name!r} in its groups; it belongs to another optimizer than "
                        f"{type(self).__name__}"
                    )
                group[name] = None if default is None else False
        # how torch computed (fused, foreach) says nothing about the numbers, and goes back to torch as it came
        self.check({name: value for name, value in group.items() if name not in SWITCHES})
        return group

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def _listed(params: Any) -> list[Any]:
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, set):
        raise ParamsError("params is a set, whose order changes between runs; give a list")
    return list(params)


def _check_param(param: Any, index: int) -> None:
    if not isinstance(param, Tensor):
        raise ParamsError(f"params[{index}] is a {type(param).__name__}; an optimizer takes tensors")
    if not (param.is_leaf or param.retains_grad):
        raise SettingsError(
            f"params[{index}] of shape {tuple(param.shape)} is computed from others; give a leaf tensor"
        )
    if param.is_complex():
        raise SettingsError(f"params[{index}] is {param.dtype}; give its real and imaginary part as real tensors")


def _loaded_value(param: Tensor, index: int, name: str, value: Any) -> Any:
    if name == "step":  # stays as it is, whatever the parameter is; a number in what torch wrote before 1.12
        return value.clone() if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float32)
    if not isinstance(value, Tensor):
        return value
    if value.shape != param.shape:
        raise ShapeError(
            f"the state dict has {name!r} of shape {tuple(value.shape)} for parameter {index} of shape "
            f"{tuple(param.shape)}; it belongs to another network"
        )
    # a copy, so that the optimizer it came from can go on without changing this one
    return value.to(dtype=param.dtype, device=param.device, copy=True)

"""Stochastic gradient descent with momentum, by hand."""

from typing import Any

from torch import Tensor

from byhand.errors import SettingsError
from byhand.optim.optimizer import Group, Optimizer, Params, check_number


class SGD(Optimizer):
    """Stochastic gradient descent: p ← p − lr · d, in torch's form and with torch's arguments.

    With the gradient g of a step (its negative where `maximize`), weight decay λ, momentum μ and dampening τ:

        g ← g + λ p                                  (L2 penalty: the gradient of λ/2 ‖p‖²)
        v ← g in the first step, else μ v + (1 − τ) g
        d = g             without momentum
        d = v             with momentum
        d = g + μ v       with Nesterov momentum
        p ← p − lr · d

    State: "momentum_buffer" (v, shaped as p), only with momentum.

    Raises SettingsError for a negative or non-finite setting, and for `nesterov` without momentum or with dampening.

    Source: Sutskever, Martens, Dahl, Hinton (2013), On the importance of initialization and momentum in deep learning,
    eqs. 1–4. Deviations, both torch's: lr stands outside of v (the paper has v ← μ v − lr g, p ← p + v), so a change of
    lr acts at once on what is remembered; and v starts as g, so the first step is not dampened.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def check(self, settings: Group) -> None:
        super().check(settings)
        for name in ("lr", "momentum", "weight_decay"):
            check_number(settings, name)
        momentum, dampening = settings["momentum"], settings["dampening"]
        if settings["nesterov"] and (momentum <= 0 or dampening != 0):
            raise SettingsError(
                f"nesterov=True with momentum={momentum} and dampening={dampening}: "
                "Nesterov momentum needs momentum above 0 and dampening 0"
            )

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: Group) -> None:
        weight_decay, momentum = group["weight_decay"], group["momentum"]
        if weight_decay != 0:
            grad = grad.add(param, alpha=weight_decay)
        if momentum != 0:
            velocity = state.get("momentum_buffer")
            if velocity is None:
                velocity = state["momentum_buffer"] = grad.clone()
            else:
                velocity.mul_(momentum).add_(grad, alpha=1 - group["dampening"])
            grad = grad.add(velocity, alpha=momentum) if group["nesterov"] else velocity
        param.add_(grad, alpha=-float(group["lr"]))

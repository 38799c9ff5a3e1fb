"""Adam, and AdamW with decoupled weight decay, by hand."""

from typing import Any

import torch
from torch import Tensor

from byhand.errors import SettingsError
from byhand.optim.optimizer import Group, Optimizer, Params, check_number


class Adam(Optimizer):
    """Adam: each weight moves by its mean gradient over the root of its mean squared gradient, with torch's arguments.

    With the gradient g of step t = 1, 2, … (its negative where `maximize`), betas (β₁, β₂) and weight decay λ:

        g ← g + λ p                      (L2 penalty; with `decoupled_weight_decay` p ← p − lr λ p instead)
        m ← β₁ m + (1 − β₁) g
        v ← β₂ v + (1 − β₂) g²
        m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
        p ← p − lr · m̂ / (√v̂ + ε)

    With `amsgrad`, v̂ = max(v₁, …, v_t) / (1 − β₂ᵗ): the denominator never shrinks.

    State: "step" (t, a tensor without dimensions on the CPU), "exp_avg" (m), "exp_avg_sq" (v) and, with `amsgrad`,
    "max_exp_avg_sq", each shaped as p.

    Raises SettingsError for a negative or non-finite setting and for a beta outside of [0, 1).

    Source: Kingma & Ba (2015), Adam: A Method for Stochastic Optimization, Algorithm 1; amsgrad: Reddi, Kale, Kumar
    (2018), On the Convergence of Adam and Beyond, Algorithm 2. Deviation, torch's: amsgrad keeps the bias corrections,
    which its paper leaves out.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def check(self, settings: Group) -> None:
        super().check(settings)
        for name in ("lr", "eps", "weight_decay"):
            check_number(settings, name)
        betas = settings["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise SettingsError(f"betas={betas!r} must be two numbers, such as (0.9, 0.999)")
        for index, beta in enumerate(betas):
            check_number({f"betas[{index}]": beta}, f"betas[{index}]", below=1.0)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: Group) -> None:
        if not state:
            # on the CPU, so that reading it never waits for an accelerator; float32, as torch writes it
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(param)
        lr, (beta1, beta2), weight_decay = float(group["lr"]), map(float, group["betas"]), group["weight_decay"]
        mean, mean_square = state["exp_avg"], state["exp_avg_sq"]
        t = state["step"].add_(1).item()

        if weight_decay != 0:
            if group["decoupled_weight_decay"]:
                param.mul_(1 - lr * weight_decay)
            else:
                grad = grad.add(param, alpha=weight_decay)
        mean.lerp_(grad, 1 - beta1)  # m + (1 − β₁) (g − m)
        mean_square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if group["amsgrad"]:
            mean_square = torch.maximum(state["max_exp_avg_sq"], mean_square, out=state["max_exp_avg_sq"])

        # m̂ / (√v̂ + ε) = m / (√v + ε c) · c / (1 − β₁ᵗ) with c = √(1 − β₂ᵗ): both corrections become one number
        # (Kingma & Ba 2015, end of section 2, where ε̂ stands for ε c)
        correction = (1 - beta2**t) ** 0.5
        root = torch.sqrt(mean_square).add_(group["eps"] * correction)
        param.addcdiv_(mean, root, value=-lr * correction / (1 - beta1**t))


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink by lr · λ apart from the gradient's statistics.

        p ← p − lr λ p                   (in place of Adam's g ← g + λ p)
        p ← p − lr · m̂ / (√v̂ + ε)       (as in Adam)

    Arguments, state and errors are Adam's; λ is 0.01 unless given.

    Source: Loshchilov & Hutter (2019), Decoupled Weight Decay Regularization, Algorithm 2 (the lines of AdamW).
    Deviation, torch's: the decay is multiplied by lr, so a schedule acts on both (the paper has a schedule multiplier η
    and λ without lr).
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # also for a state written by Adam, or by an older torch

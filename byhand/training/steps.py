"""One training step, in two ways: one that looks at every loss, and one that never waits for the device."""

import math
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor

from byhand.errors import NonFiniteLoss
from byhand.ops.tape import Tape
from byhand.optim.clipping import clip_gradients
from byhand.training.state import State
from byhand.training.tasks import CLASSIFICATION, Outputs, correct_of, logits_of, loss_of

DIVERGED = 1e6  # a mean cross-entropy that no training comes back from: the label's probability is e^(−1,000,000)
WARM_STEPS = 3  # before a CUDA graph is recorded; libraries make their plans and buffers in them


class Step:
    """Forward, loss, gradients, optimizer; the loss is looked at before the weights move, and kept with the answers.

    Raises NonFiniteLoss before a step from a loss that is not finite, or in a classification above 1e6.
    """

    def __init__(self, state: State, task: str) -> None:
        self.state, self.task, self.lr = state, task, 0.0

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> None:
        self.lr = lr
        for group in self.state.optimizer.param_groups:
            group["lr"] = lr * group.get("share", 1.0)
        self.compute(inputs, targets)

    def compute(self, inputs: Tensor, targets: Tensor) -> None:
        """The step itself: gradients of all parts of the batch, then the optimizer."""
        state, settings = self.state, self.state.settings
        share = len(targets) / settings.batch_size if settings.divide_by == "batch_size" else 1.0
        state.optimizer.zero_grad()
        for part, its_targets in self.parts(inputs, targets):
            self.add_gradients(part, its_targets, share * len(part) / len(inputs))
        if settings.clip:
            clip_gradients(state.trained, settings.clip)
        state.optimizer.step()

    def parts(self, inputs: Tensor, targets: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """The batch in ``accumulate`` parts, each of which goes through the network by itself."""
        count = min(self.state.settings.accumulate, len(inputs))
        # tensor_split, as chunk would leave one example of seven in three parts
        return zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True)

    def add_gradients(self, inputs: Tensor, targets: Tensor, share: float) -> None:
        """Add to the gradients those of ``share`` times the mean loss; the loss is seen before that."""
        state = self.state
        tape = Tape(state.trained) if state.only_ours else None
        with tape or nullcontext(), self.precision():
            outputs = state.model(inputs)
            loss = loss_of(self.task, outputs, targets, state.settings)
        self.see(loss.detach(), outputs, targets)
        if tape is None:
            loss.backward(torch.full_like(loss, share))
            return
        for parameter, grad in zip(state.trained, tape.gradients(loss, share), strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def precision(self):
        """bfloat16 for products and convolutions where the settings ask for mixed precision (Micikevicius 2018)."""
        if not self.state.settings.mixed_precision:
            return nullcontext()
        return torch.autocast(self.state.device.type, torch.bfloat16)

    def see(self, loss: Tensor, outputs: Outputs, targets: Tensor) -> None:
        """Look at what a part of the batch gave, and add it to the sums of the epoch."""
        value = float(loss)
        self.check(value, f"step {self.state.position + 1}", self.lr)
        self.state.loss_sum += value * len(targets)
        if self.task == CLASSIFICATION:
            self.state.count(logits_of(outputs).detach(), targets)

    def settle(self) -> None:
        """Bring the sums of the state up to date."""
        self.state.count_up()

    def check(self, value: float, where: str, lr: float) -> None:
        if not math.isfinite(value) or (self.task == CLASSIFICATION and value > DIVERGED):
            raise NonFiniteLoss(
                f"the loss became {value:.3g} in epoch {self.state.epoch + 1}, {where}, at lr={lr:.3g}; the weights of "
                f"the last checkpoint are kept. Try a lower lr (now {self.state.settings.lr:g}), or a warm-up"
            )


class DeviceStep(Step):
    """The same with nothing read back: learning rate, sums and the worst loss are tensors on the device.

    On a GPU the step is recorded once as a CUDA graph and then replayed, so that the processor only names it. What the
    loss became is told by ``settle``, at the end of an epoch: NonFiniteLoss is raised then, one epoch late at most, and
    the checkpoint of the epoch before is kept as well.
    """

    def __init__(self, state: State, task: str) -> None:
        super().__init__(state, task)
        self.total, self.worst = (torch.zeros((), device=state.device) for _ in range(2))
        self.right = torch.zeros((), dtype=torch.int64, device=state.device)
        for group in state.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=state.device)
        self.warm = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.held: tuple[Tensor, Tensor] | None = None  # the batch that the graph reads

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> None:
        for group in self.state.optimizer.param_groups:
            group["lr"].fill_(lr * group.get("share", 1.0))
        self.lr = lr
        whole = len(targets) == self.state.settings.batch_size
        if self.state.device.type != "cuda" or not whole:
            self.compute(inputs, targets)
        elif self.warm < WARM_STEPS:
            self.warm += 1
            stream = torch.cuda.Stream()  # as recording asks for
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.compute(inputs, targets)
            torch.cuda.current_stream().wait_stream(stream)
        else:
            if self.graph is None:
                self.held, self.graph = (inputs.clone(), targets.clone()), torch.cuda.CUDAGraph()
                self.state.optimizer.zero_grad()
                with torch.cuda.graph(self.graph):
                    self.compute(*self.held)
            assert self.held is not None
            for held, new in zip(self.held, (inputs, targets), strict=True):
                held.copy_(new)
            self.graph.replay()

    def see(self, loss: Tensor, outputs: Outputs, targets: Tensor) -> None:
        with torch.no_grad():
            self.total += loss * len(targets)
            self.worst.copy_(torch.maximum(self.worst, loss))  # which keeps a NaN
            if self.task == CLASSIFICATION:
                self.right += correct_of(self.task, outputs, targets)

    def settle(self) -> None:
        self.check(float(self.worst), "some step", self.lr)
        self.state.loss_sum += float(self.total)
        self.state.correct += int(self.right)
        self.state.counted = self.state.seen
        for sums in (self.total, self.right, self.worst):
            sums.zero_()


def step_for(state: State, task: str) -> Step:
    """The step for the device of a training: on a GPU, by library, the one that does not wait."""
    return DeviceStep(state, task) if state.device.type != "cpu" and not state.settings.by_hand else Step(state, task)

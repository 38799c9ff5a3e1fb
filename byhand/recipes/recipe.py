"""A recipe: a network, a data set, a task, named plans, and what the source reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from byhand.data.preparation import Preparation
from byhand.errors import unknown_name
from byhand.training.settings import Settings


@dataclass(frozen=True)
class Plan:
    """Settings under a name, and what the mean over seeds must reach: {measure: (least, most)}.

    They are asked of the mean over three seeds where a run takes under five minutes, else of one.
    """

    settings: Settings
    goal: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # of the network, beside the recipe's
    dataset: str | None = None  # in place of the recipe's


@dataclass(frozen=True)
class Recipe:
    """What ``byhand train NAME`` runs; ``reported`` holds the source's own numbers, each None where it prints none."""

    name: str
    title: str
    section: str
    network: str
    dataset: str
    plans: Mapping[str, Plan]
    task: str = "classification"
    options: Mapping[str, Any] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)

    def plan(self, name: str) -> Plan:
        """The plan of that name; raises UnknownName."""
        if name not in self.plans:
            raise unknown_name(f"plan of {self.name}", name, self.plans)
        return self.plans[name]

    def dataset_of(self, plan: Plan) -> str:
        """The data set that the plan learns from: its own, else the recipe's."""
        return plan.dataset or self.dataset


def near(reported: float, margin: float) -> tuple[float, float]:
    """The range of a goal that asks for the source's number within a margin."""
    return reported - margin, reported + margin


def at_least(value: float) -> tuple[float, float]:
    """The range of a goal that asks for an accuracy of at least this."""
    return value, 1.0


# The source's settings for LeNet-5, with the optimizer of its section 5.2; its training accuracy, too, is summed up
# while the last epoch runs. Its images are resized to 32 × 32 and divided by 255.
SOURCE_LENET5 = Settings(
    epochs=20,
    batch_size=256,
    lr=1e-3,
    optimizer="adamw",
    weight_decay=0.01,
    running_metrics=True,
    preparation=Preparation(size=32, fit="resize"),
    by_hand=False,
)

# Where batch normalisation bears a high lr: stochastic gradient descent in one cycle (Smith 2018), weights alone
# decayed, and torch's kernels with channels last, on a CPU the fastest hand for such networks.
ONE_CYCLE = Settings(
    epochs=10,
    batch_size=128,
    lr=0.2,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    decay_all=False,
    schedule="one-cycle",
    rise=0.25,
    by_hand=False,
    depthwise_by_hand=True,
    channels_last=True,
)

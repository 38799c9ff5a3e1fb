"""Other libraries' own training of LeNet-5 on MNIST: same network, AdamW, batch size and pixels as our plan ``book``.

    pip install "byhand[peers]" && byhand bench peers

Each is used as its documentation shows it: Keras 3 on torch with ``compile`` and ``fit``, skorch with a
``NeuralNetClassifier``. Lightning is left out, as it does not import beside a CPU build of torch, and so is JAX, whose
step for this network took five times the others' here.
"""

import os

import torch
from torch import Tensor, nn

BATCH_SIZE, LR, WEIGHT_DECAY = 256, 1e-3, 0.01


class Keras:
    """``Model.fit`` for one epoch at a time, on Keras's torch backend."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        import keras

        if keras.backend.backend() != "torch":
            raise ImportError(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=torch")
        layers = keras.layers
        self.model = keras.Sequential(
            [
                keras.Input((32, 32, 1)),
                layers.Conv2D(6, 5, activation="relu"),
                layers.AveragePooling2D(2),
                layers.Conv2D(16, 5, activation="relu"),
                layers.AveragePooling2D(2),
                layers.Flatten(),
                layers.Dense(120, activation="relu"),
                layers.Dense(84, activation="relu"),
                layers.Dense(10),
            ]
        )
        self.model.compile(
            optimizer=keras.optimizers.AdamW(learning_rate=LR, weight_decay=WEIGHT_DECAY, epsilon=1e-8),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()  # Keras keeps the channels last
        self.labels = labels.numpy()

    def epoch(self) -> tuple[float, float]:
        """Mean loss and accuracy while the epoch ran."""
        told = self.model.fit(self.images, self.labels, batch_size=BATCH_SIZE, epochs=1, shuffle=True, verbose=0)
        return told.history["loss"][-1], told.history["accuracy"][-1]

    @property
    def num_parameters(self) -> int:
        return self.model.count_params()


class Skorch:
    """``NeuralNetClassifier.partial_fit`` for one epoch at a time, without its validation split and its printing."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from skorch import NeuralNetClassifier

        from byhand.models import build

        self.network = NeuralNetClassifier(
            build("lenet5"),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW,
            lr=LR,
            optimizer__weight_decay=WEIGHT_DECAY,
            batch_size=BATCH_SIZE,
            iterator_train__shuffle=True,
            train_split=None,
            max_epochs=1,
            verbose=0,
        )
        self.images, self.labels = images, labels
        self.network.initialize()

    def epoch(self) -> tuple[float, None]:
        """Mean loss while the epoch ran; skorch counts no accuracy there unless asked to."""
        self.network.partial_fit(self.images, self.labels)
        return self.network.history[-1]["train_loss"], None

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.module_.parameters())


PEERS = {"Keras 3 on torch": Keras, "skorch": Skorch}

"""The source's training loops as they are written there (3.4 softmax regression, 4.3 perceptron, 6.3 LeNet-5).

    python benchmarks/source_loop.py lenet5-mnist --epochs 1

Every image is a PIL image that is resized (LeNet-5 only) and made a tensor one at a time, ``DataLoader(batch_size=256,
shuffle=True)`` puts them together, the loss is read with ``.item()`` in each step. The networks of 3.4 and 4.3, their
softmax, loss and sgd are the source's own lines; LeNet-5 is trained with the loop of 5.2, as the source prints none.

torchvision does not import beside a CPU build of torch, so ``MNIST.__getitem__``, ``Resize`` and ``ToTensor`` are
written here with PIL and numpy, as torchvision 0.2x does them on a PIL image; its checks and wrappers are left out, so
this loop is, if anything, a little faster than the source's.
"""

import argparse
import time
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

BATCH_SIZE = 256
EPOCHS = {"softmax-fashion": 30, "mlp-fashion": 30, "lenet5-mnist": 20}  # of the source's runs
WIDTHS = {"softmax-fashion": (784, 10), "mlp-fashion": (784, 256, 128, 10)}


def resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """torchvision's ``Resize`` with its default interpolation; ``size`` is (height, width)."""
    return picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def to_tensor(picture: Image.Image) -> Tensor:
    """torchvision's ``ToTensor``: a grey picture as float32 (1, H, W) in 0..1."""
    values = torch.from_numpy(np.array(picture, np.uint8, copy=True))
    values = values.view(picture.size[1], picture.size[0], len(picture.getbands()))
    return values.permute((2, 0, 1)).contiguous().to(torch.get_default_dtype()).div(255)


class Pictures(Dataset):
    """torchvision's ``MNIST`` and ``FashionMNIST`` with the source's transform: (float32 (1, H, W), int) each."""

    def __init__(self, images: Tensor, labels: Tensor, size: tuple[int, int] | None = None) -> None:
        self.data, self.targets, self.size = images.flatten(0, 1), labels, size

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture, target = Image.fromarray(self.data[index].numpy(), mode="L"), int(self.targets[index])
        if self.size is not None:
            picture = resize(picture, self.size)
        return to_tensor(picture), target


def softmax(X: Tensor) -> Tensor:
    X_exp = torch.exp(X)
    partition = X_exp.sum(dim=1, keepdim=True)
    return X_exp / partition


def relu(X: Tensor) -> Tensor:
    a = torch.zeros_like(X)
    return torch.max(X, a)


def cross_entropy(y_hat: Tensor, y: Tensor) -> Tensor:
    return -torch.log(y_hat[range(len(y_hat)), y])


def accuracy(y_hat: Tensor, y: Tensor) -> float:
    if len(y_hat.shape) > 1 and y_hat.shape[1] > 1:
        y_hat = y_hat.argmax(axis=1)
    cmp = y_hat.type(y.dtype) == y
    return float(cmp.type(y.dtype).sum())


def sgd(params: list[Tensor], lr: float, batch_size: int) -> None:
    with torch.no_grad():
        for param in params:
            param -= lr * param.grad / batch_size
            param.grad.zero_()


class Scratch:
    """Sections 3.4 and 4.3: weights W and biases b, sgd with lr 0.1, a softmax with its logarithm taken afterwards."""

    def __init__(self, widths: tuple[int, ...], device: str) -> None:
        self.params = []
        for rows, columns in pairwise(widths):
            self.params.append(torch.normal(0, 0.01, size=(rows, columns), device=device, requires_grad=True))
            self.params.append(torch.zeros(columns, device=device, requires_grad=True))

    def net(self, X: Tensor) -> Tensor:
        H = X.reshape((-1, self.params[0].shape[0]))
        for W, b in zip(self.params[:-2:2], self.params[1:-2:2], strict=True):
            H = relu(H @ W + b)
        return softmax(H @ self.params[-2] + self.params[-1])

    def step(self, X: Tensor, y: Tensor) -> tuple[float, float]:
        """The summed loss and the number of right answers of a batch, before its step."""
        y_hat = self.net(X)
        loss = cross_entropy(y_hat, y)
        loss.sum().backward()
        sgd(self.params, 0.1, BATCH_SIZE)
        with torch.no_grad():
            return loss.sum().item(), accuracy(y_hat, y)


class LeNet5(nn.Module):
    """Section 6.3."""

    def __init__(self) -> None:
        super().__init__()
        self.get_feature = nn.Sequential(
            nn.Conv2d(in_channels=1, out_channels=6, kernel_size=5),
            nn.ReLU(),
            nn.AvgPool2d(kernel_size=2, stride=2),
            nn.Conv2d(in_channels=6, out_channels=16, kernel_size=5),
            nn.ReLU(),
            nn.AvgPool2d(kernel_size=2, stride=2),
        )
        self.classify = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_features=16 * 5 * 5, out_features=120),
            nn.ReLU(),
            nn.Linear(in_features=120, out_features=84),
            nn.ReLU(),
            nn.Linear(in_features=84, out_features=10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_feature(x)
        x = self.classify(x)
        return x


class Concise:
    """Section 5.2's loop around the network of 6.3: nn.CrossEntropyLoss, AdamW with lr 0.001."""

    def __init__(self, device: str) -> None:
        self.net = LeNet5().to(device)
        self.params = list(self.net.parameters())
        self.loss_fn = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.001)

    def step(self, X: Tensor, y: Tensor) -> tuple[float, float]:
        """The summed loss and the number of right answers of a batch, before its step."""
        y_hat = self.net(X)
        loss = self.loss_fn(y_hat, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item() * y.size(0), (y_hat.argmax(dim=1) == y).sum().item()


class Loop:
    """A training of the source: ``epoch()`` gives its mean loss and accuracy, ``evaluate()`` the test accuracy.

    ``data`` is a byhand Dataset, of which only the tensors are used. ``order`` puts the examples in one order in place
    of ``shuffle=True``, so that a test can compare what is learned.
    """

    def __init__(self, name: str, data, order: list[int] | None = None, device: str = "cpu") -> None:
        self.device = device
        self.network = Concise(device) if name == "lenet5-mnist" else Scratch(WIDTHS[name], device)
        size = (32, 32) if name == "lenet5-mnist" else None
        training = Pictures(data.train_images, data.train_labels, size)
        self.train_loader = DataLoader(training, batch_size=BATCH_SIZE, shuffle=order is None, sampler=order)
        self.test_loader = DataLoader(Pictures(data.test_images, data.test_labels, size), batch_size=BATCH_SIZE)

    def epoch(self) -> tuple[float, float]:
        metric = [0.0, 0.0, 0.0]
        for X, y in self.train_loader:
            X, y = X.to(self.device), y.to(self.device)
            loss, correct = self.network.step(X, y)
            metric[0] += loss
            metric[1] += correct
            metric[2] += X.shape[0]
        return metric[0] / metric[2], metric[1] / metric[2]

    def evaluate(self) -> float:
        acc_sum, n = 0.0, 0
        with torch.no_grad():
            for X, y in self.test_loader:
                X, y = X.to(self.device), y.to(self.device)
                acc_sum += accuracy(self.network.net(X), y)
                n += y.numel()
        return acc_sum / n


def main(loop_of, description: str) -> None:
    """Train as the command line asks for and print a line an epoch; ``plain_loop.py`` shares it."""
    from byhand import data
    from byhand.recipes import recipe

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name", choices=EPOCHS)
    parser.add_argument("--epochs", type=int, help="as many as the source's run unless given")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--data-dir")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    loop = loop_of(given.name, data.load(recipe(given.name).dataset, given.data_dir))
    for epoch in range(1, (given.epochs or EPOCHS[given.name]) + 1):
        started = time.perf_counter()
        loss, share = loop.epoch()
        print(
            f"epoch {epoch}  loss {loss:.4f}  accuracy {share:.4f}  {time.perf_counter() - started:.2f} s", flush=True
        )
    print(f"test accuracy {loop.evaluate():.4f}")


if __name__ == "__main__":
    main(Loop, "The source's training loop as written.")

"""A plain good PyTorch loop: all images as one float tensor, TensorDataset and DataLoader, no reading of the loss.

    python benchmarks/plain_loop.py lenet5-mnist --epochs 1

Network, initialisation, optimizer, batch size and pixels are those of our plan ``book``; the loop is what a practised
user of PyTorch writes. The images are prepared before the clock starts. The loss is a mean also over the last batch.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from byhand import models
from byhand.recipes import recipe
from byhand.training.state import initialise_normal

BATCH_SIZE = 256


class Loop:
    """A training: ``epoch()`` gives its mean loss and accuracy, ``evaluate()`` the test accuracy; see source_loop."""

    def __init__(self, name: str, data, order: list[int] | None = None, device: str = "cpu") -> None:
        chosen, self.device = recipe(name), device
        settings = chosen.plan("book").settings
        self.network = models.build(chosen.network, **chosen.options).to(device)
        if settings.init == "normal":
            initialise_normal(self.network)
        self.loss_fn = nn.CrossEntropyLoss()
        if settings.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.network.parameters(), lr=settings.lr)
        else:
            decay = settings.weight_decay
            self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, weight_decay=decay)

        def loader(images, labels, **options):
            # a thousand at a time: what resizing holds in between is several times the images
            floats = torch.cat([settings.preparation(part) for part in images.split(1000)])
            return DataLoader(TensorDataset(floats, labels), batch_size=BATCH_SIZE, **options)

        self.train_loader = loader(data.train_images, data.train_labels, shuffle=order is None, sampler=order)
        self.test_loader = loader(data.test_images, data.test_labels)

    def epoch(self) -> tuple[float, float]:
        self.network.train()
        loss_sum, correct, seen = torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0
        for X, y in self.train_loader:
            X, y = X.to(self.device), y.to(self.device)
            logits = self.network(X)
            loss = self.loss_fn(logits, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * len(y)
            correct += (logits.detach().argmax(1) == y).sum()
            seen += len(y)
        return loss_sum.item() / seen, correct.item() / seen

    def evaluate(self) -> float:
        self.network.eval()
        with torch.no_grad():
            right = [(self.network(X.to(self.device)).argmax(1) == y.to(self.device)) for X, y in self.test_loader]
        return torch.cat(right).float().mean().item()


if __name__ == "__main__":
    from source_loop import main

    main(Loop, "A plain good PyTorch loop.")

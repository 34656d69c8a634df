"""The loop of PyTorch's tutorial "Transfer Learning for Computer Vision"."""

import torch
from torch import nn

from work import Speeds, Work, loader, network, timed, train_mode

work = Work.given()
model, head = network(work)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(
    model.parameters() if work.trainable == "all" else head.parameters(), lr=0.001, momentum=0.9
)
train, test = loader(work, "train"), loader(work, "test")


def epoch() -> None:
    train_mode(model, work)
    for inputs, labels in train:
        optimizer.zero_grad()
        with torch.set_grad_enabled(True):
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
        loss.item()


def evaluate() -> None:
    model.eval()
    correct = 0
    with torch.no_grad():
        for inputs, labels in test:
            correct += int((model(inputs).argmax(1) == labels).sum())


seconds = [timed(epoch) for _ in range(work.epochs)]
Speeds(len(train.dataset) / seconds[-1], len(test.dataset) / timed(evaluate)).tell()

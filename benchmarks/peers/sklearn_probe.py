"""A probe: features once, as the network gives them in eval mode, then scikit-learn's logistic regression."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from work import Speeds, Work, loader, network, timed

work = Work.given()
model, _ = network(work)
model.fc = nn.Identity()
model.eval()
train, test = loader(work, "train"), loader(work, "test")
probe = LogisticRegression(max_iter=1000)


def features(batches):
    with torch.no_grad():
        rows = [(model(images).numpy(), labels.numpy()) for images, labels in batches]
    return (np.concatenate(parts) for parts in zip(*rows, strict=True))


seconds = timed(lambda: probe.fit(*features(train)))
tested = timed(lambda: probe.score(*features(test)))
Speeds(len(train.dataset) / seconds, len(test.dataset) / tested).tell()

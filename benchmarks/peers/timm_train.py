"""timm's train.py, which its wheel lacks, from timm's modules: its loader, its optimiser, bf16 AMP, channels-last."""

from functools import partial

import torch
from timm.data import ImageDataset, create_loader
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy
from torch import nn

from work import BATCH_SIZE, MEAN, STD, Speeds, Work, network, timed, train_mode

work = Work.given()
model, head = network(work)
model.to(memory_format=torch.channels_last)
optimizer = create_optimizer_v2(model if work.trainable == "all" else head, opt="sgd", lr=0.001, momentum=0.9)
criterion = nn.CrossEntropyLoss()
autocast = partial(torch.autocast, device_type="cpu", dtype=torch.bfloat16)


def batches(split: str):
    return create_loader(
        ImageDataset(f"{work.images}/{split}"), 224, BATCH_SIZE, is_training=split == "train", no_aug=not work.augment,
        color_jitter=0.0, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear", crop_pct=0.875,
        mean=MEAN, std=STD, num_workers=work.workers, device=torch.device("cpu"), use_prefetcher=False,
    )  # fmt: skip


train, test = batches("train"), batches("test")


def epoch() -> None:
    train_mode(model, work)
    losses = AverageMeter()
    for inputs, labels in train:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with autocast():
            loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.update(loss.item(), len(inputs))


def evaluate() -> None:
    model.eval()
    top1 = AverageMeter()
    with torch.inference_mode():
        for inputs, labels in test:
            with autocast():
                output = model(inputs.contiguous(memory_format=torch.channels_last))
            top1.update(accuracy(output, labels)[0].item(), len(inputs))


# timm drops the last, smaller batch
seen = len(train) * BATCH_SIZE
seconds = [timed(epoch) for _ in range(work.epochs)]
Speeds(seen / seconds[-1], len(test.dataset) / timed(evaluate)).tell()

"""How long the whole paper would take with the loop of PyTorch's tutorial on one GPU: its epochs, times their number.

    python benchmarks/peers/gpu_tutorial.py --images chest_xray_224.zip --workers 16

Three networks, 25 frozen epochs and 10 of fine-tuning each, validation after every epoch, in batches of 32, in fp32 as
the tutorial computes (with TF32 in convolutions, as torch comes). Of each stage one epoch is timed, after some batches
that warm up loaders and libraries; loaders keep their workers, which is kinder to it than the tutorial's own lines.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from compare import unpack
from torch import nn
from torch.utils.data import DataLoader

from work import BATCH_SIZE, Work, folder, network, timed, train_mode

EPOCHS = {"head": 25, "all": 10}
WARM_UP = 20  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=16)
    given = parser.parse_args()
    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as place:
        unpack(given.images, Path(place), 4916, 300)
        work = Work(images=place, batch_norm="train")
        options = {"num_workers": given.workers, "persistent_workers": True, "pin_memory": True}
        train = folder(work, "train")
        loaders = {
            "train": DataLoader(train, BATCH_SIZE, shuffle=True, **options),
            "val": DataLoader(folder(work, "val"), BATCH_SIZE, **options),
        }
        total = 0.0
        for backbone in ("alexnet", "googlenet", "resnet18"):
            for trainable, epochs in EPOCHS.items():
                work = Work(images=place, backbone=backbone, batch_norm="train", trainable=trainable)
                model, head = network(work)
                model.to(device)
                criterion = nn.CrossEntropyLoss()
                parameters = model.parameters() if trainable == "all" else head.parameters()
                optimizer = torch.optim.SGD(parameters, lr=0.001, momentum=0.9)

                def epoch(limit: int | None = None, model=model, work=work, optimizer=optimizer, criterion=criterion):
                    for phase in ("train", "val"):
                        if phase == "train":
                            train_mode(model, work)
                        else:
                            model.eval()
                        loss_sum, correct = 0.0, 0
                        for number, (inputs, labels) in enumerate(loaders[phase]):
                            inputs, labels = inputs.to(device), labels.to(device)
                            optimizer.zero_grad()
                            with torch.set_grad_enabled(phase == "train"):
                                outputs = model(inputs)
                                loss = criterion(outputs, labels)
                                if phase == "train":
                                    loss.backward()
                                    optimizer.step()
                            loss_sum += loss.item() * len(inputs)
                            correct += int((outputs.argmax(1) == labels).sum())
                            if number == limit:
                                break

                epoch(WARM_UP)
                seconds = timed(epoch)
                total += epochs * seconds
                print(
                    f"{backbone:12}{trainable:6}{seconds:7.2f} s an epoch, {len(train) / seconds:7.0f} images/s; "
                    f"{epochs} epochs {epochs * seconds:6.1f} s",
                    flush=True,
                )
    name = torch.cuda.get_device_name(device)
    print(f"the paper: {total:.0f} s ({name}, torch {torch.__version__}, {given.workers} workers)")


if __name__ == "__main__":
    main()

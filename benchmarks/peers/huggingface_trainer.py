"""The Hugging Face Trainer around the same network."""

import tempfile
import time

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from work import BATCH_SIZE, Speeds, Work, folder, network, timed, train_mode


class Classifier(nn.Module):
    """A network that speaks as the Trainer expects."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self.model, self.head = network(work)

    def train(self, mode: bool = True):
        super().train(mode)
        if mode:
            train_mode(self.model, self.work)
        return self

    def forward(self, pixel_values, labels):
        logits = self.model(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Clock(TrainerCallback):
    """Times each epoch."""

    def on_epoch_begin(self, *_arguments, **_options) -> None:
        self.begin = time.perf_counter()

    def on_epoch_end(self, *_arguments, **_options) -> None:
        self.seconds = time.perf_counter() - self.begin


def collate(rows):
    return {
        "pixel_values": torch.stack([image for image, _ in rows]),
        "labels": torch.tensor([label for _, label in rows]),
    }


work = Work.given()
model = Classifier(work)
optimizer = torch.optim.SGD(
    model.parameters() if work.trainable == "all" else model.head.parameters(), lr=0.001, momentum=0.9
)
with tempfile.TemporaryDirectory() as output:
    arguments = TrainingArguments(
        output, num_train_epochs=work.epochs, per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE, dataloader_num_workers=work.workers, use_cpu=True, save_strategy="no",
        report_to=[], disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    train, test = folder(work, "train"), folder(work, "test")
    trainer = Trainer(
        model, arguments, data_collator=collate, train_dataset=train, eval_dataset=test, optimizers=(optimizer, None)
    )
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    Speeds(len(train) / clock.seconds, len(test) / timed(lambda: trainer.predict(test))).tell()

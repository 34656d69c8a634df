"""Lightning's Trainer, as its guide to transfer learning has it: frozen layers in eval mode without gradients."""

import time

import lightning
import torch
from torch.nn import functional as F  # noqa: N812

from work import Speeds, Work, loader, network, timed, train_mode


class Transfer(lightning.LightningModule):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self.model, self.head = network(work)

    def on_train_epoch_start(self) -> None:
        self.begin = time.perf_counter()
        train_mode(self.model, self.work)

    def training_step(self, batch):
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def on_train_epoch_end(self) -> None:
        self.seconds = time.perf_counter() - self.begin

    def test_step(self, batch):
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        parameters = self.parameters() if self.work.trainable == "all" else self.head.parameters()
        return torch.optim.SGD(parameters, lr=0.001, momentum=0.9)


work = Work.given()
module = Transfer(work)
trainer = lightning.Trainer(
    accelerator="cpu", max_epochs=work.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
train, test = loader(work, "train"), loader(work, "test")
trainer.fit(module, train)
tested = timed(lambda: trainer.test(module, test, verbose=False))
Speeds(len(train.dataset) / module.seconds, len(test.dataset) / tested).tell()

"""fastai's vision_learner, as it comes: its own head and loader, frozen layers' BatchNorm in train mode."""

import time

from fastai.vision.all import SGD, Callback, Flip, ImageDataLoaders, RandomResizedCrop, resnet18, vision_learner

from work import BATCH_SIZE, Speeds, Work


class Clock(Callback):
    """Times training and validation, the latter on the test images."""

    def __init__(self) -> None:
        self.seconds = {}

    def before_train(self) -> None:
        self.begin = time.perf_counter()

    def after_train(self) -> None:
        self.seconds["train"] = time.perf_counter() - self.begin

    def before_validate(self) -> None:
        self.begin = time.perf_counter()

    def after_validate(self) -> None:
        self.seconds["test"] = time.perf_counter() - self.begin


work = Work.given()
data = ImageDataLoaders.from_folder(
    work.images, train="train", valid="test", item_tfms=RandomResizedCrop(224, min_scale=0.08), batch_tfms=Flip(),
    bs=BATCH_SIZE, num_workers=work.workers,
)  # fmt: skip
clock = Clock()
learner = vision_learner(data, resnet18, pretrained=False, opt_func=SGD, cbs=clock)
if work.trainable == "head":
    learner.freeze()
else:
    learner.unfreeze()
with learner.no_bar(), learner.no_logging():
    learner.fit(work.epochs)
# fastai drops the last, smaller batch
seen = len(data.train) * BATCH_SIZE
Speeds(seen / clock.seconds["train"], len(data.valid_ds) / clock.seconds["test"]).tell()

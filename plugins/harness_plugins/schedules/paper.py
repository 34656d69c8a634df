"""The schedule of *Transfer Learning, from ImageNet to X-rays* (Aldor, Petersson, Roos; KTH).

Where the paper leaves a choice open, the option's default is the likely reading; every one can be set.
"""

from __future__ import annotations

from harness.api import SGD, ConstantLR, CyclicLR, Schedule, Stage, Transform

__all__ = ["PAPER", "PAPER_EVAL_BN"]

_FROZEN = Stage(
    name="frozen",
    epochs=25,
    batch_size=32,
    trainable="head",
    optimizer=SGD(momentum=0.9),
    # 154 batches x 25 epochs = 3850 steps: PyTorch's default of 2000 steps up makes about one triangle.
    lr=CyclicLR(base=0.01, max=0.1, step_size_up=2000, mode="triangular", cycle_momentum=True, step_every="batch"),
    # A network left in train mode, as the tutorials of the time did: its running statistics drift to the new images.
    batch_norm="train",
)

_FINETUNE = Stage(
    name="finetune",
    epochs=10,
    batch_size=32,
    trainable="all",
    optimizer=SGD(momentum=0.9),
    lr=ConstantLR(base=1e-5),
    batch_norm="train",
)

PAPER = Schedule(
    description="25 epochs of the head alone at a cyclic rate, then 10 of every layer at 1e-5",
    transform=Transform(),
    stages=(_FROZEN, _FINETUNE),
)

PAPER_EVAL_BN = PAPER.model_copy(
    update={
        "description": "paper, with BatchNorm's running statistics left alone",
        "stages": tuple(stage.model_copy(update={"batch_norm": "eval"}) for stage in PAPER.stages),
    }
)

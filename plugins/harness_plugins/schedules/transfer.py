"""Schedules beside the paper's: from scratch, unfrozen step by step, and one whose stages vote."""

from __future__ import annotations

from harness.api import SGD, AdamW, CosineLR, CrossEntropy, OneCycleLR, Schedule, Stage

__all__ = ["GRADUAL", "SCRATCH", "SNAPSHOTS"]

SCRATCH = Schedule(
    description="every layer from random weights, for 35 epochs at one cycle",
    weights="random",
    stages=(
        Stage(
            name="scratch",
            epochs=35,
            trainable="all",
            optimizer=SGD(momentum=0.9, weight_decay=5e-4),
            lr=OneCycleLR(base=0.002, max=0.05, low_momentum=0.85),
        ),
    ),
)

# Howard and Ruder 2018 (arXiv:1801.06146): layers are unfrozen from the last one back, those in front learn less.
GRADUAL = Schedule(
    description="the head, then a block more every second epoch, at rates that fall towards the input",
    stages=(
        Stage(
            name="gradual",
            epochs=10,
            trainable="head",
            unfreeze_at=(3, 5, 7),
            lr_decay=1 / 2.6,
            batch_norm="eval",
            optimizer=AdamW(),
            lr=CosineLR(base=1e-3, warm_up=0.1),
            loss=CrossEntropy(label_smoothing=0.1),
        ),
    ),
)

# Huang et al. 2017 (arXiv:1704.00109): the rate starts anew for each, and each is another minimum on one way.
SNAPSHOTS = Schedule(
    description="five stages, each from a high rate to nothing, whose predictions vote: harness ensemble --stage",
    stages=tuple(
        Stage(
            name=f"snapshot{number}",
            epochs=4,
            trainable="all",
            optimizer=SGD(momentum=0.9),
            lr=CosineLR(base=0.01),
            checkpoint="last",
            start_from="last",
        )
        for number in range(1, 6)
    ),
)

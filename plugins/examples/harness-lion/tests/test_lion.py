from __future__ import annotations

import torch
from torch import nn

from harness.engine.rates import learning_rates
from harness.testing.conformance import check_optimizer, check_schedule
from harness_lion import LION_COSINE, Lion


def test_they_conform() -> None:
    found = [*check_optimizer(Lion()), *check_schedule(LION_COSINE)]
    assert [result for result in found if not result.passed] == []


def test_a_first_step_is_the_sign_of_the_gradient() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    parameter.grad = torch.tensor([3.0, -0.1, 0.0])
    Lion(weight_decay=0.0).make([{"params": [parameter], "lr": 0.5}]).step()
    assert parameter.tolist() == [0.5, 1.5, 1.0]


def test_rates_fall_as_a_cosine() -> None:
    rates = learning_rates(LION_COSINE.stages[0], steps_per_epoch=20)
    assert [round(rates[step] / 3e-4, 3) for step in (0, 50, 75)] == [1.0, 0.5, 0.146]

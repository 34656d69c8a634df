"""BatchNorm's kernels on a GPU compute what torch computes in double precision."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import sys
import torch
from torch.nn import functional as F
from harness.engine.norms import normalise
device, draws = torch.device(sys.argv[1]), torch.Generator().manual_seed(0)

def apart(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()

for shape in ((4, 3, 5, 7), (4, 3, 50, 50), (2, 70, 9, 9), (8, 64, 20, 20), (3, 130, 1, 1)):
    for dtype, allowed in ((torch.float32, 1e-6), (torch.bfloat16, 5e-3)):  # bf16 rounds what it stores by 2e-3
        layout = torch.channels_last
        images = (2 * torch.randn(shape, generator=draws) + 5).to(device, dtype).contiguous(memory_format=layout)
        gradient = torch.randn(shape, generator=draws).to(device, dtype).contiguous(memory_format=layout)
        weight, bias = (torch.rand(shape[1], generator=draws).to(device) + 0.5 for _ in range(2))
        statistics = torch.zeros(shape[1], device=device), torch.ones(shape[1], device=device)
        leaves = [value.clone().requires_grad_() for value in (images, weight, bias)]
        found = normalise(*leaves, *statistics, 0.1, 1e-5)
        found.backward(gradient)
        exact = [value.double().requires_grad_() for value in (images, weight, bias)]
        plain = torch.zeros(shape[1], device=device).double(), torch.ones(shape[1], device=device).double()
        expected = F.batch_norm(exact[0], *plain, *exact[1:], True, 0.1, 1e-5)
        expected.backward(gradient.double())
        assert found.dtype == dtype and found.is_contiguous(memory_format=layout)
        assert apart(found, expected) < allowed, (shape, dtype)
        assert all(apart(a, b) < 1e-6 for a, b in zip(statistics, plain)), (shape, dtype)
        assert all(apart(a.grad, b.grad) < allowed for a, b in zip(leaves, exact)), (shape, dtype)
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernels_compute_what_torch_does(device: str) -> None:
    """On a CPU, Triton's interpreter executes their code."""
    interpreted = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    command = [sys.executable, "-c", CODE, device]
    done = subprocess.run(command, env={**os.environ, **interpreted}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_a_network_in_bf16_trains_as_with_torchs_own() -> None:
    import torch
    from torch import nn

    from harness.engine.norms import BatchNorm, use_fast_norms
    from harness_plugins.backbones.torchvision import ResNet18

    torch.manual_seed(0)
    network = ResNet18().architecture(auxiliary=False).cuda().to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 64, 64, device="cuda").contiguous(memory_format=torch.channels_last)
    found = []
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for fast in (False, True):
        network.load_state_dict(state)
        if fast:
            use_fast_norms(network)
            assert {type(layer) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {BatchNorm}
        network.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = network(images).float().square().mean()
        loss.backward()
        found.append((loss.item(), {name: value.clone() for name, value in network.named_buffers()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=0.02)
    for name, expected in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], expected, rtol=0.05, atol=0.02)

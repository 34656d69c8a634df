from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from harness.api import Backbone, PretrainedWeights
from harness.engine.weights import load_state, load_weights
from harness.errors import WeightsError
from harness_plugins.backbones.torchvision import AlexNet, GoogLeNet, ResNet18


class _Linear(Backbone):
    head = "0"

    def __init__(self, published: PretrainedWeights | None = None) -> None:
        self._published = published

    def pretrained(self) -> dict[str, PretrainedWeights]:
        return {"imagenet": self._published} if self._published else {}

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2))


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "served" / "linear.pth"
    path.parent.mkdir()
    torch.save({"0.weight": torch.full((2, 2), 5.0), "0.bias": torch.zeros(2)}, path)
    return path


@pytest.fixture
def server(checkpoint: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(checkpoint.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load(backbone: Backbone, spec: str, name: str = "linear") -> tuple[nn.Module, object, list[str]]:
    module = backbone.architecture(auxiliary=False)
    notes: list[str] = []
    return module, load_weights(module, backbone, name, spec, notes.append), notes


def test_random_is_recorded_as_random() -> None:
    _, record, _ = _load(_Linear(), "random")
    assert record.kind == "random"
    assert record.sha256 is None


def test_a_download_is_checked_kept_and_not_repeated(checkpoint: Path, server: str, tmp_path: Path) -> None:
    published = PretrainedWeights("test", "linear.pth", _digest(checkpoint)[:8], url=f"{server}/linear.pth")
    module, record, notes = _load(_Linear(published), "imagenet")
    assert record.kind == "pretrained"
    assert record.sha256 == _digest(checkpoint)
    assert module[0].weight.mean() == 5
    assert "downloading" in notes[0]
    assert (tmp_path / "torch" / "hub" / "checkpoints" / "linear.pth").is_file()
    checkpoint.unlink()
    assert _load(_Linear(published), "imagenet")[2] == []


def test_a_download_of_something_else_is_refused_and_leaves_nothing(server: str, tmp_path: Path) -> None:
    published = PretrainedWeights("test", "linear.pth", "0" * 8, url=f"{server}/linear.pth")
    with pytest.raises(WeightsError, match="invalid hash value"):
        _load(_Linear(published), "imagenet")
    assert not list((tmp_path / "torch").rglob("*.pth"))


def test_no_network_says_the_three_ways_out(server: str) -> None:
    for url in (f"{server}/missing.pth", "http://127.0.0.1:9/linear.pth"):
        with pytest.raises(WeightsError) as caught:
            _load(_Linear(PretrainedWeights("test", "linear.pth", "00", url=url)), "imagenet")
        for way in ("HARNESS_WEIGHTS_DIR", "--weights linear=PATH", "--weights linear=random"):
            assert way in str(caught.value)


def test_own_folder_comes_before_the_cache(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_WEIGHTS_DIR", str(checkpoint.parent))
    published = PretrainedWeights("test", "linear.pth", _digest(checkpoint), url="http://127.0.0.1:9/linear.pth")
    assert _load(_Linear(published), "imagenet")[1].sha256 == _digest(checkpoint)
    wrong = PretrainedWeights("test", "linear.pth", "12345678", url="http://127.0.0.1:9/linear.pth")
    with pytest.raises(WeightsError, match="is not test: its sha256"):
        _load(_Linear(wrong), "imagenet")


def test_files_and_folders_of_the_user(checkpoint: Path, tmp_path: Path) -> None:
    assert _load(_Linear(), str(checkpoint))[1].kind == "file"
    save_file({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}, tmp_path / "linear.safetensors")
    module, record, _ = _load(_Linear(), str(tmp_path))
    assert module[0].weight.mean() == 1
    assert record.origin.endswith("linear.safetensors")
    with pytest.raises(WeightsError, match="holds none of"):
        _load(_Linear(), str(tmp_path), name="other")
    with pytest.raises(WeightsError, match="no such file"):
        _load(_Linear(), str(tmp_path / "missing.pth"))


def test_what_does_not_fit_is_one_message(tmp_path: Path) -> None:
    for content, part in (
        (b"", "cannot be read"),
        (b"not a checkpoint", "cannot be read"),
    ):
        path = tmp_path / "bad.pth"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=part):
            _load(_Linear(), str(path))
    torch.save({"0.weight": torch.ones(3, 3), "0.bias": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match=r"does not fit linear: .*size mismatch"):
        _load(_Linear(), str(path))
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="should hold a state dict"):
        _load(_Linear(), str(path))


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"0.weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        _load(_Linear(), str(tmp_path / "evil.pth"))


def test_a_backbone_without_that_checkpoint_says_so() -> None:
    with pytest.raises(WeightsError, match="has no 'imagenet' weights"):
        _load(_Linear(), "imagenet")


@pytest.mark.parametrize("backbone", [AlexNet(), GoogLeNet(), ResNet18()], ids=lambda b: type(b).__name__)
def test_torchvision_files_are_the_ones_that_torchvision_names(backbone: Backbone) -> None:
    from torchvision.models import get_model_weights

    enum = get_model_weights(type(backbone).__name__.lower())
    published = backbone.pretrained()["imagenet"]
    assert published.url == enum.IMAGENET1K_V1.url
    assert published.sha256 in published.filename
    transforms = enum.IMAGENET1K_V1.transforms()
    assert (backbone.input_size, list(backbone.mean), list(backbone.std)) == (
        transforms.crop_size[0],
        transforms.mean,
        transforms.std,
    )


def test_googlenet_loads_a_published_checkpoint_with_and_without_auxiliary_heads(tmp_path: Path) -> None:
    full = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    torch.save(full.state_dict(), tmp_path / "googlenet.pth")
    backbone = GoogLeNet()
    for auxiliary in (False, True):
        module = backbone.architecture(auxiliary=auxiliary)
        load_weights(module, backbone, "googlenet", str(tmp_path), print)
        assert torch.equal(module.get_parameter("fc.weight"), full.fc.weight)
        logits, others = backbone.logits(module.train()(torch.zeros(2, 3, 224, 224)))
        assert logits.shape == (2, 1000)
        assert len(others) == (2 if auxiliary else 0)
        assert module.transform_input is True


def test_a_layout_that_has_a_version_goes_through_safetensors(tmp_path: Path) -> None:
    module, other = torchvision.models.mnasnet0_5(weights=None), torchvision.models.mnasnet0_5(weights=None)
    save_file(module.state_dict(), tmp_path / "mnasnet.safetensors")
    with pytest.raises(ValueError, match="version should be set"):
        other.load_state_dict(load_file(tmp_path / "mnasnet.safetensors"))
    load_state(other, load_file(tmp_path / "mnasnet.safetensors"))
    assert torch.equal(other.classifier[1].weight, module.classifier[1].weight)

"""A frozen stage on features ends where a joint loop ends, and features are kept for other runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine_parts import trainer_on_noise
from harness.api import Transform
from harness.engine import batches
from harness.engine.features import FeatureCache
from harness.engine.stage import Trainer
from harness.results import EpochResult, Note, StageResult
from harness_plugins.schedules.paper import PAPER

STAGE = PAPER.stages[0].model_copy(update={"epochs": 3, "batch_size": 8, "batch_norm": "eval", "checkpoint": "last"})


def _trained(cache: FeatureCache | None = None, transform: Transform | None = None, stage=STAGE, seed: int = 0):
    trainer, events, _ = trainer_on_noise(cache=cache, transform=transform)
    trainer.seed = seed
    trainer.run_stage(stage, 0)
    (result,) = (event for event in events if isinstance(event, StageResult))
    return trainer, events, result


def _joint(monkeypatch: pytest.MonkeyPatch, **options):
    from harness.engine import stage
    from harness.engine.cut import CutError

    def refuse(*_arguments: object) -> None:
        raise CutError("the test says so")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "cut", refuse)
        return _trained(**options)


@pytest.mark.parametrize("transform", [PAPER.transform, Transform(crop="none", flip=False)])
@pytest.mark.parametrize("class_weights", ["none", "sampler"])
def test_features_and_the_joint_loop_end_with_the_same_head(
    monkeypatch: pytest.MonkeyPatch, transform: Transform, class_weights: str
) -> None:
    stage = STAGE.model_copy(update={"class_weights": class_weights})
    ours, events, result = _trained(transform=transform, stage=stage)
    plain, plain_events, plain_result = _joint(monkeypatch, transform=transform, stage=stage)
    assert result.execution["training"] == "head on features"
    assert plain_result.execution["training"] == "whole network"
    for name, value in plain.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    for found, expected in zip(result.predictions, plain_result.predictions, strict=True):
        torch.testing.assert_close(torch.from_numpy(found.logits), torch.from_numpy(expected.logits))
    losses = [[e.train_loss for e in given if isinstance(e, EpochResult)] for given in (events, plain_events)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def _cache(folder: Path, notes: list[str] | None = None) -> FeatureCache:
    return FeatureCache(folder, "this machine", (notes if notes is not None else []).append)


def test_another_run_takes_the_features_and_ends_the_same(tmp_path: Path) -> None:
    _, _, made = _trained(_cache(tmp_path))
    _, _, taken = _trained(_cache(tmp_path))
    assert made.execution["features_taken"] == 0
    assert made.execution["features_computed"] == 3 * 32 + 16 + 8
    assert taken.execution["features_computed"] == 0
    assert taken.execution["features_taken"] == 3 * 32 + 16 + 8
    assert taken.execution["features_taken_seconds"] > 0
    assert made.execution["test_images_per_second"] > 0
    assert "test_images_per_second" not in taken.execution, "nothing was computed"
    assert made.weights_sha256 == taken.weights_sha256
    _, _, faster = _trained(_cache(tmp_path), stage=STAGE.model_copy(update={"lr": PAPER.stages[1].lr}))
    assert faster.execution["features_computed"] == 0, "another rate is another head on the same features"
    assert faster.weights_sha256 != made.weights_sha256


def test_seeds_share_features_where_they_share_draws(tmp_path: Path) -> None:
    shared = PAPER.transform.model_copy(update={"seed": 5})
    _trained(_cache(tmp_path), shared, seed=0)
    _, _, second = _trained(_cache(tmp_path), shared, seed=1)
    assert second.execution["features_computed"] == 0
    _, _, own = _trained(_cache(tmp_path), seed=1)
    assert own.execution["features_computed"] == 3 * 32, "val and test are those of all"
    assert own.weights_sha256 != second.weights_sha256


def test_a_transform_without_chance_is_computed_once_for_all_epochs() -> None:
    _, _, result = _trained(transform=Transform(crop="none", flip=False))
    assert result.execution["features_computed"] == 32 + 16 + 8


def test_each_precision_has_features_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        for precision in ("fp32", "bf16"):
            notes: list[str] = []
            trainer, events, _ = trainer_on_noise(cache=_cache(tmp_path, notes))
            trainer.precision = precision
            trainer.run_stage(STAGE, 0)
            assert notes == []
    (result,) = (event for event in events if isinstance(event, StageResult))
    assert result.execution["features_computed"] == 0


def test_features_of_other_layers_images_or_machines_are_not_taken(tmp_path: Path) -> None:
    _trained(_cache(tmp_path))
    elsewhere = FeatureCache(tmp_path, "another machine", print)
    _, _, result = _trained(elsewhere)
    assert result.execution["features_taken"] == 0
    trainer, events, _ = trainer_on_noise(cache=_cache(tmp_path))
    with torch.no_grad():
        trainer.module[0].weight += 1
    trainer.run_stage(STAGE, 0)
    (result,) = (event for event in events if isinstance(event, StageResult))
    assert result.execution["features_taken"] == 0


def test_damaged_files_are_made_again(tmp_path: Path) -> None:
    _, _, made = _trained(_cache(tmp_path))
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[-1] ^= 1
        path.write_bytes([bytes(damaged), content[: len(content) // 2], b""][number % 3])
    _, _, again = _trained(_cache(tmp_path))
    assert again.execution["features_taken"] == 0
    assert again.weights_sha256 == made.weights_sha256
    _, _, taken = _trained(_cache(tmp_path))
    assert taken.execution["features_computed"] == 0


def test_features_that_are_not_this_networks_are_not_trusted(tmp_path: Path) -> None:
    """A plugin's code may change without any sign of it in the names of its layers."""
    _, _, made = _trained(_cache(tmp_path))
    paths = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    paths[0].write_bytes(paths[1].read_bytes())
    _, events, again = _trained(_cache(tmp_path))
    assert again.execution["features_taken"] == 0
    assert again.weights_sha256 == made.weights_sha256
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes == ["features that another run kept are not those of this network, and are computed again"]
    _, _, taken = _trained(_cache(tmp_path))
    assert taken.execution["features_computed"] == 0, "wrong files were replaced"


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    _, _, result = _trained(_cache(tmp_path / "file", notes))
    assert result.execution["features_computed"] == 3 * 32 + 16 + 8
    assert len(notes) == 1
    assert "features cannot be kept" in notes[0]


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.engine import features

    cache = _cache(tmp_path)
    rows = (torch.zeros(100, 100),)
    monkeypatch.setattr(features, "_LIMIT_BYTES", 3 * 40_000 + 2000)
    for name in "abcd":
        cache.put(name, rows, 1.0)
        assert cache.get(name) is not None
        cache.get("a")
    assert cache.get("a") is not None, "used last"
    assert cache.get("b") is None
    assert cache.get("d") is not None


def _hungry(monkeypatch: pytest.MonkeyPatch, above: int, *, inference: bool) -> None:
    """Let passes of more images ask the allocator, in earnest, for more than there is."""
    forward = Trainer._forward

    def hungry(self, network, inputs):
        if len(inputs[0]) > above and torch.is_inference_mode_enabled() is inference:
            torch.empty(1 << 60)
        return forward(self, network, inputs)

    monkeypatch.setattr(Trainer, "_forward", hungry)


def test_training_that_does_not_fit_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _hungry(monkeypatch, 4, inference=False)
    with pytest.raises(MemoryError, match=r"train on 8 images at a time.*--set frozen.batch_size=4"):
        _trained()


def test_images_live_on_a_device_that_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's "meta" device stands for one with memory of its own, whose size the test sets."""
    trainer, _, _ = trainer_on_noise()
    needed = sum(split.images.nbytes for split in trainer.splits.values())
    for free, expected in ((2 * needed, "meta"), (2 * needed - 2, "cpu")):
        monkeypatch.setattr(batches, "free_memory", lambda _device, free=free: free)
        moved = batches.move(trainer.splits, torch.device("meta"))
        assert {split.images.device.type for split in moved.values()} == {expected}
        images = moved["train"].batch(torch.tensor([0, 3]), torch.device("meta"))
        assert images.shape == (2, 1, 16, 16)


def test_batches_are_halved_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, expected = _trained()
    _hungry(monkeypatch, 8, inference=True)
    _, events, result = _trained()
    assert result.execution["batch_size"] == 8
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[0] == "memory does not suffice for batches of 16 images; goes on with 8"
    for found, other in zip(result.predictions, expected.predictions, strict=True):
        torch.testing.assert_close(torch.from_numpy(found.logits), torch.from_numpy(other.logits))

from __future__ import annotations

import re
from pathlib import Path

import harness
from harness import errors

EXPORTED = {
    "Adam", "AdamW", "Backbone", "Combined", "ConstantLR", "CosineLR", "CrossEntropy", "CyclicLR", "Dataset",
    "DatasetOptions", "Ensemble", "ExponentialLR", "Family", "Focal", "HarnessError", "ImageRef", "ImageSource",
    "ImageSplits", "LearningRate", "Loss", "OneCycleLR", "Optimizer", "PolynomialLR", "PretrainedWeights", "SGD",
    "Schedule", "Stage", "StepLR", "Transform",
}  # fmt: skip


def test_the_root_exports_exactly_this() -> None:
    assert set(harness.__all__) == EXPORTED
    assert all(hasattr(harness, name) for name in EXPORTED)


def test_the_drawn_tree_of_errors_is_the_tree() -> None:
    drawn = set(re.findall(r"\b\w+Error\b", errors.__doc__ or ""))
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert drawn == defined
    assert defined <= set(errors.__all__)


def test_no_page_of_the_repository_is_executable_by_pickle() -> None:
    for path in Path(harness.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert "pickle.load" not in text, path
        for call in re.findall(r"torch\.load\(.*", text):
            assert "weights_only=True" in call, path

"""Initial weights: found, verified, loaded, and recorded for what they are. Nothing is ever substituted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.api import Backbone, PretrainedWeights
from harness.data.files import file_sha256
from harness.errors import WeightsError
from harness.paths import weights_dirs
from harness.results import WeightsRecord

__all__ = ["load_state", "load_weights"]

SUFFIXES = (".safetensors", ".pth", ".pt")


def load_weights(
    module: nn.Module, backbone: Backbone, name: str, spec: str, note: Callable[[str], None]
) -> WeightsRecord:
    """Load ``imagenet``, or a file or folder of checkpoints, into a module with its original head; or leave it random.

    Args:
        module: as :meth:`Backbone.architecture` built it.
        backbone: whose weights they are.
        name: the backbone plugin's name, for messages and for files in a folder.
        spec: ``random``, the name of a pretrained checkpoint, or an absolute path.
        note: called with a line of text before a download starts.

    Raises:
        WeightsError: they cannot be had, are not the published ones, or do not fit.
    """
    if spec == "random":
        return WeightsRecord("random", "drawn at random by the architecture's own rule", None)
    if Path(spec).is_absolute():
        path = _from_user(backbone, name, Path(spec))
        record = WeightsRecord("file", str(path), file_sha256(path))
    else:
        published = backbone.pretrained().get(spec)
        if published is None:
            raise WeightsError(
                f"{name} has no {spec!r} weights; give a checkpoint with --weights {name}=PATH, or say "
                f"--weights {name}=random"
            )
        path = _from_publisher(published, name, note)
        record = WeightsRecord("pretrained", published.origin, file_sha256(path))
    _load(module, backbone, name, path)
    return record


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put weights into a module.

    A layer may tell the layout of its weights by a version, which torch keeps beside a state dict and files of plain
    tensors do not (torchvision's MNASNet refuses those). Where it is missing and the names are the module's, so is the
    layout.

    Raises:
        RuntimeError: names or shapes are not the module's.
    """
    own = module.state_dict()
    if not hasattr(state, "_metadata") and state.keys() == own.keys():
        state = OrderedDict(state)
        state._metadata = own._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state, strict=True)


def _from_user(backbone: Backbone, name: str, path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"--weights {name}={path}: there is no such file or folder")
    candidates = [published.filename for published in backbone.pretrained().values()]
    candidates += [name + suffix for suffix in SUFFIXES]
    for candidate in candidates:
        if (path / candidate).is_file():
            return path / candidate
    raise WeightsError(f"--weights {name}={path}: the folder holds none of {', '.join(candidates)}")


def _from_publisher(published: PretrainedWeights, name: str, note: Callable[[str], None]) -> Path:
    folders = weights_dirs()
    places = [published.path] if published.path else [folder / published.filename for folder in folders]
    for place in places:
        if place.is_file():
            found = file_sha256(place)
            if not found.startswith(published.sha256):
                raise WeightsError(
                    f"{place} is not {published.origin}: its sha256 begins {found[:16]}, expected {published.sha256}; "
                    "delete the file and try again"
                )
            return place
    if published.url is None:
        raise WeightsError(f"the weights of {name} should be at {places[0]}; reinstall the package that carries them")
    target = folders[-1] / published.filename
    note(f"{name}: downloading {published.origin} to {target}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # torch.hub writes beside the target, checks the hash and then renames
        torch.hub.download_url_to_file(published.url, str(target), hash_prefix=published.sha256, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        searched = ", ".join(str(folder) for folder in folders)
        raise WeightsError(
            f"the ImageNet weights of {name} are not on this machine (searched {searched}) and could not be downloaded "
            f"from {published.url}: {error}. Three ways out: put {published.filename} into a folder and set "
            f"HARNESS_WEIGHTS_DIR to it; give a checkpoint with --weights {name}=PATH; or train from scratch with "
            f"--weights {name}=random"
        ) from error
    return target


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)  # never runs code from the file
        )
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path} cannot be read as a checkpoint: {reason}") from error
    state = content.get("state_dict", content.get("model", content)) if isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} should hold a state dict (names to tensors); found {type(content).__name__}")
    return state


def _load(module: nn.Module, backbone: Backbone, name: str, path: Path) -> None:
    state = _read(path)
    try:
        load_state(module, backbone.adapt_state_dict(state, module))
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise WeightsError(f"{path} does not fit {name}: {' '.join(lines[:3])[:400]}") from error

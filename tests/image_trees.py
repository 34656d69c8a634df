"""Small trees of images, and images that are broken in every way that files are."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = {
    "train/NORMAL": [f"IM-{n:04d}-0001.jpeg" for n in range(6)],
    "train/PNEUMONIA": [f"person{n}_bacteria_{m}.jpeg" for n in range(4) for m in (1, 2)]
    + [f"person{n}_virus_9.jpeg" for n in range(3)],
}
TEST = {
    "test/NORMAL": ["NORMAL2-IM-0001-0001.jpeg", "NORMAL2-IM-0002-0001-0002.jpeg"],
    "test/PNEUMONIA": ["person70_virus_1.jpeg", "person71_bacteria_2_3.jpeg"],
}


def grey(seed: int = 0, size: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def kaggle(root: str = "chest_xray/") -> dict[str, bytes]:
    """Names and contents of a tiny data set in Kaggle's layout; each image differs."""
    names = [f"{folder}/{name}" for part in (TRAIN, TEST) for folder, files in part.items() for name in files]
    return {root + name: encoded(grey(seed).convert("RGB")) for seed, name in enumerate(names)}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def broken_images() -> dict[str, tuple[bytes, str]]:
    """Contents of a file that cannot be used, and a part of what should be said of it."""
    photograph = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    wide = Image.fromarray(np.zeros((24, 24), np.uint16))
    return {
        "truncated": (encoded(photograph)[:-200], "damaged"),
        "empty": (b"", "empty file"),
        "text": (b"no image at all", "no image that Pillow can read"),
        "16-bit": (encoded(wide, "PNG"), "16-bit grey"),
        "palette": (encoded(photograph.quantize(8), "PNG"), "palette"),
        "cmyk": (encoded(photograph.convert("CMYK")), "CMYK"),
        "rgba": (encoded(photograph.convert("RGBA"), "PNG"), "transparency"),
    }


def medmnist(path: Path, size: int, **other: np.ndarray) -> Path:
    """Write a small file as MedMNIST's are; the first two training images are the same."""
    arrays = {}
    for seed, (split, number) in enumerate({"train": 24, "val": 8, "test": 8}.items()):
        draws = np.random.default_rng(seed)
        arrays[f"{split}_images"] = draws.integers(0, 256, (number, size, size), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(number, dtype=np.uint8) % 2)[:, None]
    arrays["train_images"][1] = arrays["train_images"][0]
    np.savez_compressed(path, **(arrays | other))
    return path

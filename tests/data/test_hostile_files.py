"""Archives and images made to mislead or to exhaust whoever reads them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.archive import open_tree
from harness.data.decode import decode
from harness.errors import DataError
from harness_plugins.datasets.chest_xray import ChestXray
from harness_plugins.datasets.imagefolder import ImageFolder
from image_trees import encoded, grey, kaggle, write_folder, write_zip


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


def _png(width: int, height: int, depth: int, colour: int, row: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_png(4, 4, 16, 2, bytes(24)), "16-bit RGB"),  # Pillow would open it as 8-bit RGB
        (_png(12_000, 12_000, 8, 0, bytes(12_000)), "too large to be a photograph"),  # Pillow would only warn
        (_png(60_000, 60_000, 8, 0, b""), "too large to be a photograph"),
        (encoded(grey().convert("1"), "PNG"), "black and white"),
        (encoded(grey().convert("LA"), "PNG"), "transparency"),
    ],
)
def test_images_that_pillow_would_let_pass(tmp_path: Path, content: bytes, said: str) -> None:
    files = kaggle() | {"chest_xray/test/NORMAL/IM-0009-0001.png": content}
    with pytest.raises(DataError, match=rf"IM-0009-0001\.png: .*{said}"):
        ChestXray().add("chest-xray", write_zip(tmp_path / "x.zip", files), root=None, progress=lambda *_: None)


def test_many_faults_are_counted_and_the_first_few_named(tmp_path: Path) -> None:
    files = dict.fromkeys(kaggle(""), b"")
    with pytest.raises(DataError) as caught:
        ChestXray().add("chest-xray", write_folder(tmp_path / "x", files), root=None, progress=lambda *_: None)
    assert "21 of 21 files" in str(caught.value)
    assert str(caught.value).count("empty file") == 5
    assert str(caught.value).endswith("and 16 more")


def test_archives_that_are_encrypted_ambiguous_or_corrupt(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a/1.png": encoded(grey(), "PNG")})
    whole = path.read_bytes()
    flags = whole.index(b"PK\x01\x02") + 8
    path.write_bytes(whole[:flags] + b"\x01" + whole[flags + 1 :])
    with pytest.raises(DataError, match="is encrypted"):
        open_tree(path)
    path.write_bytes(whole.replace(b"IHDR", b"XXXX"))
    with open_tree(path) as tree, pytest.raises(DataError, match=r"a/1\.png in .* cannot be read: Bad CRC-32"):
        tree.read("a/1.png")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/1.png", b"two")
    with pytest.raises(DataError, match="twice"):
        open_tree(path)
    for name in ("/etc/1.png", "C:/1.png", "a\\..\\1.png"):
        with pytest.raises(DataError, match="points outside"):
            open_tree(write_zip(path, {name: b"x"}))


def test_patients_of_a_val_split_draw_their_training_images_with_them(tmp_path: Path) -> None:
    files = kaggle() | {
        "chest_xray/val/NORMAL/NORMAL2-IM-0900-0001.jpeg": encoded(grey(90)),
        "chest_xray/val/PNEUMONIA/person2_bacteria_9.jpeg": encoded(grey(91)),
    }
    ChestXray().add("chest-xray", write_zip(tmp_path / "x.zip", files), root=None, progress=lambda *_: None)
    options = {"val_normal": 2, "val_pneumonia": 4, "split": "grouped"}
    splits = ChestXray().load("chest-xray", ChestXray.Options(**options))
    assert len(splits.val) == 2 + 6
    sides = [{ref.group for ref in refs} for refs in splits.named().values()]
    assert "bacteria-2" in sides[1]
    assert not sides[0] & sides[1]

    files["chest_xray/test/PNEUMONIA/person2_bacteria_8.jpeg"] = encoded(grey(92))
    ChestXray().add("chest-xray", write_zip(tmp_path / "x.zip", files), root=None, progress=lambda *_: None)
    with pytest.raises(DataError, match=r"1 patients of the test split.*bacteria-2"):
        ChestXray().load("chest-xray", ChestXray.Options(**options))


def test_an_image_folder_in_a_zip_with_a_folder_around_it_is_indexed_once(tmp_path: Path) -> None:
    files = {f"photos/{kind}/{n}.png": encoded(grey(n), "PNG") for kind in "ab" for n in range(6)}
    path = write_zip(tmp_path / "photos.zip", files | {"photos/README.md": b"mine", "LICENSE.txt": b"mine"})
    options = ImageFolder.Options(path=str(path))
    splits = ImageFolder().load("imagefolder", options)
    assert splits.classes == ("a", "b")
    (index,) = (tmp_path / "home" / "cache" / "indexes").iterdir()
    made = index.stat().st_mtime_ns
    assert ImageFolder().load("imagefolder", options).fingerprint == splits.fingerprint
    assert index.stat().st_mtime_ns == made
    index.write_text("{}")
    with pytest.raises(DataError, match=f"delete {index}"):
        ImageFolder().load("imagefolder", options)


def test_an_image_that_changes_after_it_was_verified_is_noticed(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {f"{k}/{n}.png": encoded(grey(n), "PNG") for k in "ab" for n in range(6)})
    splits = ImageFolder().load("imagefolder", ImageFolder.Options(path=str(path)))
    (path / splits.train[0].id).write_bytes(encoded(Image.fromarray(np.zeros((9, 9), np.uint8)), "PNG"))
    with pytest.raises(DataError, match="has changed since"):
        decode(splits, splits.train, 24, lambda *_: None, print)

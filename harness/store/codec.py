"""Arrays, lists and JSON as the database holds them. Bytes are little-endian on every machine."""

from __future__ import annotations

import hashlib
import json
import zlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter

from harness.results import Passport

__all__ = [
    "canonical_json",
    "pack_doubles",
    "pack_labels",
    "pack_logits",
    "pack_strings",
    "sha256",
    "to_passport",
    "unpack_doubles",
    "unpack_labels",
    "unpack_logits",
    "unpack_strings",
]


# Ten million images, with 100 bytes of name each.
_LABELS_LIMIT, _STRINGS_LIMIT = 4 * 10**7, 10**9


def canonical_json(value: Any) -> str:
    """Return JSON that is equal where the values are equal: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(value: Any) -> str:
    """Return the digest of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@cache
def _passports() -> TypeAdapter[Passport]:
    return TypeAdapter(Passport)


def to_passport(value: Any) -> Passport:
    """Return a passport from its JSON, which ``dataclasses.asdict`` makes.

    Raises:
        ValueError: it is none.
    """
    return _passports().validate_python(value)


def pack_strings(values: tuple[str, ...]) -> bytes:
    """Return a list of strings as compressed JSON."""
    return zlib.compress(canonical_json(values).encode())


def unpack_strings(blob: bytes) -> tuple[str, ...]:
    """Undo :func:`pack_strings`."""
    return tuple(json.loads(_decompress(blob, _STRINGS_LIMIT)))


def pack_labels(labels: ArrayLike) -> bytes:
    """Return labels (n,) as compressed int32."""
    return zlib.compress(np.asarray(labels, "<i4").tobytes())


def unpack_labels(blob: bytes) -> NDArray[np.int64]:
    """Undo :func:`pack_labels`."""
    return np.frombuffer(_decompress(blob, _LABELS_LIMIT), "<i4").astype(np.int64)


def _decompress(blob: bytes, limit: int) -> bytes:
    """Undo ``zlib.compress`` unless the result is larger than ``limit``, as a database from elsewhere may have it."""
    content = zlib.decompressobj()
    plain = content.decompress(blob, limit)
    if not content.eof:
        raise ValueError(f"compressed data that is cut off, or larger than {limit:,} bytes")
    return plain


def pack_logits(logits: ArrayLike) -> bytes:
    """Return logits (n, classes) as float32, row by row."""
    return np.asarray(logits, "<f4").tobytes()


def unpack_logits(blob: bytes, classes: int) -> NDArray[np.float32]:
    """Undo :func:`pack_logits`."""
    return np.frombuffer(blob, "<f4").astype(np.float32).reshape(-1, classes)


def pack_doubles(values: ArrayLike) -> bytes:
    """Return an array as float64, row by row."""
    return np.asarray(values, "<f8").tobytes()


def unpack_doubles(blob: bytes) -> NDArray[np.float64]:
    """Undo :func:`pack_doubles`, as one row."""
    return np.frombuffer(blob, "<f8").astype(np.float64)

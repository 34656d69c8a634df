"""Blobs of a database that somebody sent."""

import zlib

import pytest

from harness.store.codec import pack_labels, pack_strings, unpack_labels, unpack_strings


@pytest.mark.parametrize("n", [0, 1, 10_000])
def test_what_is_packed_comes_back(n):
    assert unpack_labels(pack_labels(range(n))).tolist() == list(range(n))
    names = tuple(f"{number} é\udcff.png" for number in range(n))
    assert unpack_strings(pack_strings(names)) == names


def test_a_small_blob_that_grows_without_end_is_refused_before_it_fills_the_memory():
    grown = zlib.compressobj()
    bomb = b"".join(grown.compress(bytes(2**20)) for _ in range(50)) + grown.flush()
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match="larger than 40,000,000 bytes"):
        unpack_labels(bomb)
    with pytest.raises(ValueError, match="cut off"):
        unpack_strings(pack_strings(("a", "b"))[:-3])

"""Images in a file behave as a tensor of them, or say that the file is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddlabel.data import _stored_pixels
from ddlabel.data._stored_pixels import PixelFile, StoredPixels, in_memory_limit, row_digests, take
from ddlabel.errors import DataError, UsageError
from ddlabel.seeding import generator

WHOLE = torch.randint(0, 256, (40, 3, 5, 4), dtype=torch.uint8, generator=generator(0, "stored pixels"))
ROW = 60
OFFSET = 7


def write(path: Path, pixels: Tensor = WHOLE) -> StoredPixels:
    path.write_bytes(bytes(OFFSET) + pixels.numpy().tobytes())
    return StoredPixels(
        PixelFile(path, OFFSET, tuple(pixels.shape[1:]), row_digests(pixels)), torch.arange(len(pixels))
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> StoredPixels:
    return write(tmp_path_factory.mktemp("stored") / "pixels")


MASK = torch.arange(40) % 3 == 0


@pytest.mark.parametrize(
    "index",
    [0, -1, 39, slice(None), slice(5, 9), slice(30, 99), slice(0, 0), torch.tensor([3, 3, -1, 0, 39, 3]),
     torch.tensor([], dtype=torch.int64), MASK, ~MASK, torch.tensor(7)],
    ids=str,
)  # fmt: skip
def test_every_index_gives_what_a_tensor_gives(kept: StoredPixels, index) -> None:
    """New memory, in the order that was asked for."""
    found = kept[index]

    assert torch.equal(WHOLE[index], found)
    assert found.is_contiguous()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 39), max_size=60), st.integers(1, 400), st.integers(0, 200))
def test_reading_rows_together_changes_nothing(kept: StoredPixels, numbers: list[int], block: int, gap: int) -> None:
    """Whatever the size of a read and the gaps that it bridges."""
    index = torch.tensor(numbers, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_stored_pixels, "BLOCK_BYTES", block)
        patch.setattr(_stored_pixels, "GAP_BYTES", gap)

        assert torch.equal(WHOLE[index], kept[index])


def test_views_of_views_read_nothing_until_they_are_indexed(tmp_path: Path) -> None:
    """Rows, sizes, digests and splits are those of the tensor."""
    pixels = write(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"")
    view = take(take(pixels, MASK), torch.tensor([4, 0]))
    digests = row_digests(view)
    (tmp_path / "x").write_bytes(bytes(OFFSET) + WHOLE.numpy().tobytes())
    expected = WHOLE[MASK][[4, 0]]

    assert isinstance(view, StoredPixels)
    assert (expected.shape, expected.numel(), 2) == (view.shape, view.numel(), len(view))
    assert np.array_equal(row_digests(expected), digests)
    assert torch.equal(expected, view[:])
    assert view.nbytes < 40 * 20


@pytest.mark.parametrize("count", [1, 7, 40, 100])
def test_parts_are_those_of_a_tensor(kept: StoredPixels, count: int) -> None:
    """Also of no images: one empty part."""
    for stored, tensor in ((kept, WHOLE), (kept.rows(slice(0, 0)), WHOLE[:0])):
        parts = list(stored.split(count))

        assert [part.shape for part in tensor.split(count)] == [part.shape for part in parts]
        assert torch.equal(tensor, torch.cat(parts))


def test_what_a_tensor_could_but_stored_images_cannot_is_a_type_error(kept: StoredPixels) -> None:
    """Columns, and lists that would be guessed at."""
    for index in ((slice(None), 0), [1, 2], torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(TypeError):
            kept[index]
    with pytest.raises(IndexError):
        kept[40]


def test_a_flipped_bit_a_cut_file_and_an_emptied_one_are_named(tmp_path: Path) -> None:
    """With the file and what to do; images that are whole can still be read."""
    path = tmp_path / "x"
    pixels = write(path)
    data = bytearray(path.read_bytes())
    data[OFFSET + 5 * ROW] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x: decoded image 5 is not what was written; delete this file"):
        pixels[3:9]
    assert torch.equal(WHOLE[6:9], pixels[6:9])
    path.write_bytes(data[: OFFSET + 20 * ROW + 1])
    with pytest.raises(DataError, match=r"x: it ends too early; delete"):
        pixels[20]


def test_a_file_that_was_removed_is_still_read(tmp_path: Path) -> None:
    """It was open."""
    pixels = write(tmp_path / "x")
    (tmp_path / "x").unlink()

    assert torch.equal(WHOLE, pixels[:])


@pytest.mark.parametrize("text", ["2G", "-1", "1.5"])
def test_a_limit_that_is_no_number_of_bytes_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of the variable."""
    monkeypatch.setenv(_stored_pixels.LIMIT_VARIABLE, text)
    with pytest.raises(UsageError, match="DDLABEL_IN_MEMORY_BYTES"):
        in_memory_limit()

"""Resized crops of a batch against each crop cut out and resized by torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ddlabel import crops
from ddlabel.crops import resized_crops


def draw(count: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, crops inside an image, and flips."""
    source = torch.Generator().manual_seed(seed)

    def axis(size: int) -> tuple[Tensor, Tensor]:
        length = torch.randint(1, size + 1, (count,), generator=source)
        start = (torch.rand(count, generator=source) * (size - length + 1)).long()
        return start, length

    (top, tall), (left, wide) = axis(height), axis(width)
    image = torch.randint(0, 4, (count,), generator=source)
    return image, torch.stack([top, left, tall, wide], 1), torch.rand(count, generator=source) < 0.5


def one_by_one(images: Tensor, image: Tensor, crop: Tensor, flip: Tensor) -> Tensor:
    """Slice, `interpolate`, mirror."""
    size, made = images.shape[-2:], []
    for index, (top, left, tall, wide), mirrored in zip(image.tolist(), crop.tolist(), flip.tolist(), strict=True):
        part = images[index : index + 1, :, top : top + tall, left : left + wide]
        view = functional.interpolate(part, size=size, mode="bilinear", align_corners=False)
        made.append(view.flip(3) if mirrored else view)
    return torch.cat(made)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_crops_equal_slices_resized_by_torch(height: int, width: int, seed: int) -> None:
    """Any size of image and crop, square or not; nothing from outside the crop."""
    images = torch.randn(4, 2, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    image, crop, flip = draw(6, height, width, seed)

    torch.testing.assert_close(resized_crops(images, image, crop, flip), one_by_one(images, image, crop, flip))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_bits_do_not_depend_on_the_batch(data: st.DataObject) -> None:
    """Any order, any split, a batch cut into pieces for the cache: the same float32 numbers."""
    images = torch.randn(4, 3, 13, 13, generator=torch.Generator().manual_seed(1))
    image, crop, flip = draw(9, 13, 13, data.draw(st.integers(0, 999)))
    whole = resized_crops(images, image, crop, flip)
    order = torch.tensor(data.draw(st.permutations(range(9))))
    size = data.draw(st.integers(1, 9))
    parts = [resized_crops(images, image[part], crop[part], flip[part]) for part in order.split(size)]

    assert torch.equal(whole[order], torch.cat(parts))


def test_a_batch_is_cut_for_the_cache_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three views at once or all."""
    images = torch.randn(4, 3, 8, 8)
    drawn = draw(10, 8, 8, 0)
    whole = resized_crops(images, *drawn)
    monkeypatch.setattr(crops, "CACHED", 3 * 3 * 64)

    assert torch.equal(whole, resized_crops(images, *drawn))


def test_the_whole_image_is_itself_bit_for_bit() -> None:
    """And mirrored, its mirror image."""
    images = torch.randn(2, 3, 9, 7)
    crop = torch.tensor([[0, 0, 9, 7]] * 2)
    made = resized_crops(images, torch.tensor([1, 0]), crop, torch.tensor([False, True]))

    assert torch.equal(torch.stack([images[1], images[0].flip(2)]), made)


def test_gradients_flow_to_the_pixels_of_the_crop_alone() -> None:
    """Against finite differences; pixels outside have none."""
    images = torch.randn(2, 1, 5, 5, dtype=torch.float64).requires_grad_(True)
    crop, flip = torch.tensor([[1, 2, 3, 2], [0, 0, 5, 4]]), torch.tensor([True, False])

    assert torch.autograd.gradcheck(lambda x: resized_crops(x, torch.tensor([0, 1]), crop, flip), (images,))
    resized_crops(images, torch.tensor([0]), crop[:1], flip[:1]).sum().backward()
    reached = (images.grad[0, 0] != 0).nonzero()
    assert [[1, 2], [3, 3]] == [reached.min(0).values.tolist(), reached.max(0).values.tolist()]

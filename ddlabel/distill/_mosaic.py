"""Images stitched from patches, in RDED's order (arXiv:2312.03526)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cell_sides", "centred", "in_cells", "stitched"]


def cell_sides(side: int, factor: int) -> tuple[int, ...]:
    """Heights of the rows of cells, and widths of their columns: the first side mod factor get one pixel more.

    >>> cell_sides(8, 3)
    (3, 3, 2)
    """
    return tuple(side // factor + (place < side % factor) for place in range(factor))


def in_cells(ranked: Tensor, factor: int) -> Tensor:
    """Which patch lies in which cell.

    The first n/f^2 fill the first cell of all images, the next the second one: cell (r, t) of image i is patch
    (r f + t) n/f^2 + i.

    Args:
        ranked: (n, ...) one row per patch, the best first; n is a multiple of f^2.
        factor: f, cells in a row.

    Returns:
        (n/f^2, f^2, ...): of each image its cells, row by row.
    """
    cells: Tensor = ranked.unflatten(0, (factor**2, -1))
    return cells.transpose(0, 1)


def stitched(patches: Tensor, side: int) -> Tensor:
    """Images of f x f patches each, in any type.

    Args:
        patches: (n, f^2, c, p, p) as `in_cells` orders them; p is side // f.
        side: s of the images in pixels. Where f does not divide it, patches are enlarged to their cells by taking the
            nearest pixel, which repeats one row or column.

    Returns:
        (n, c, s, s).
    """
    factor, small = round(patches.shape[1] ** 0.5), patches.shape[-1]
    nearest = [torch.arange(cell, device=patches.device) * small // cell for cell in cell_sides(side, factor)]
    rows = []
    for row, down in enumerate(nearest):
        cells = [patches[:, row * factor + column] for column in range(factor)]
        cells = [cell[:, :, down][:, :, :, right] for cell, right in zip(cells, nearest, strict=True)]
        rows.append(torch.cat(cells, dim=3))
    return torch.cat(rows, dim=2)


def centred(patches: Tensor, side: int) -> Tensor:
    """Patches (n, c, p, p) in the middle of images (n, c, side, side) of zeros; the upper left of two middles."""
    small = patches.shape[-1]
    if small == side:
        return patches
    first = (side - small) // 2
    canvas = patches.new_zeros((*patches.shape[:2], side, side))
    canvas[:, :, first : first + small, first : first + small] = patches
    return canvas

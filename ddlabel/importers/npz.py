"""NumPy `.npz` files with `images`, `labels`, maybe `soft_labels` and `lr`, or as `ddlabel export` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, suggest
from ..interchange import NPZ_EXPORT, NPZ_IMAGES, NPZ_IMAGES_FLOAT, NPZ_LABELS, NPZ_LR, NPZ_ZCA
from ..options import opt
from ..zca import Zca
from ._arrays import Array, numbers, read_arrays, text
from ._checks import DROP, both_labels, images_of, labels_of, step_size
from ._exported import LABELS, left_out
from ._importer import Foreign
from ._sidecar import described
from ._sources import Sources, shown

__all__ = ["IMPORTER"]

SOFT = ("soft_labels", "soft", "labels_soft")
LR = ("lr", NPZ_LR)
KNOWN = frozenset((NPZ_IMAGES, NPZ_IMAGES_FLOAT, NPZ_LABELS, NPZ_EXPORT, *LR, *SOFT, *NPZ_ZCA))
DOMAIN = "_domain"
"""How names of texts beside labels end."""


@dataclass(frozen=True, kw_only=True)
class Npz:
    """Images uint8 or float, (n, h, w), (n, h, w, c) or (n, c, h, w); labels (n,) classes or (n, k) soft labels.

    Files of `ddlabel export` state their facts, and hold the whitening and labels of every kind.
    """

    layout: str | None = opt(
        None,
        "order of the axes of 4-dimensional images; auto sees which axis has 1 or 3 entries",
        choices=("nhwc", "nchw"),
    )
    lr: str = opt("take", "learned step size of the files: take or drop", choices=DROP)

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """One file whose name ends so."""
        return len(sources.paths) == 1 and sources.paths[0].suffix.lower() == ".npz"

    def read(self, sources: Sources) -> Foreign:
        """All arrays of a known name."""
        path = sources.only
        name = shown(path)
        arrays = _arrays(sources, path, name)
        is_space, is_export = NPZ_IMAGES not in arrays, NPZ_EXPORT in arrays
        images = images_of(self._channels_first(arrays, is_space, is_export, name), name)
        given = None if is_export else next((key for key in SOFT if key in arrays), None)
        hard = numbers(arrays[NPZ_LABELS], name)
        labels, soft = (
            labels_of(hard, name) if given is None else both_labels(hard, numbers(arrays[given], name), given, name)
        )
        step = next((numbers(arrays[key], name) for key in LR if key in arrays), None)
        lr, notes = step_size(step, name, self.lr)
        richer = {key: array for key, array in arrays.items() if key.startswith(LABELS) and not key.endswith(DOMAIN)}
        foreign = Foreign(
            name=name,
            images=images,
            values="space" if is_space else None,
            labels=labels,
            soft=soft,
            lr=lr,
            zca=_whitening(arrays, name) if "zca_matrix" in arrays else None,
            said={"labels": name} | ({"lr": name} if lr is not None else {}),
            notes=notes if is_export else (*notes, *left_out([key for key in richer if key != given], name)),
        )
        if not is_export:
            return foreign
        tensors = {key: numbers(array, name) for key, array in richer.items()}
        return described(foreign, text(arrays, NPZ_EXPORT, name), sources, path, arrays=tensors, lr=self.lr)

    def _channels_first(self, arrays: Mapping[str, Array], is_space: bool, is_export: bool, name: str) -> Tensor:
        array = arrays[NPZ_IMAGES_FLOAT if is_space else NPZ_IMAGES]
        if array.dtype.kind in "iu" and array.dtype != np.uint8:
            raise BundleError(f"{name}: 'images' holds {array.dtype.name}, expected uint8 pixels or floats")
        images = numbers(array, name)
        if images.ndim == 3:
            return images[:, None]
        if images.ndim != 4:
            raise BundleError(f"{name}: 'images' has shape {tuple(images.shape)}, expected 3 or 4 axes")
        fits = {"nchw": images.shape[1] in {1, 3}, "nhwc": images.shape[3] in {1, 3}}
        ours = ("nchw" if is_space else "nhwc") if is_export else None
        if self.layout is None and ours is None and all(fits.values()):
            raise BundleError(
                f"{name}: 'images' of shape {tuple(images.shape)} may have channels first or last",
                hint="say --set layout=nhwc or layout=nchw",
            )
        layout = self.layout or ours or ("nhwc" if fits["nhwc"] else "nchw")
        return images.permute(0, 3, 1, 2) if layout == "nhwc" else images


def _arrays(sources: Sources, path: Path, name: str) -> dict[str, Array]:
    """The arrays that are known by name, and all labels."""
    arrays, keys = read_arrays(sources, path, name, wanted=lambda key: key in KNOWN or key.startswith(LABELS))
    missing = {NPZ_IMAGES, NPZ_LABELS} - arrays.keys()
    if NPZ_LABELS in missing or (missing and NPZ_IMAGES_FLOAT not in arrays):
        wanted = sorted(missing)[0]
        have = [ascii(key)[1:-1][:40] for key in keys[:20]]
        raise BundleError(f"{name}: no array '{wanted}'{suggest(wanted, have)}")
    return arrays


def _whitening(arrays: Mapping[str, Array], name: str) -> Zca:
    """Mean, matrix and inverse of a ZCA that the file holds.

    Raises:
        BundleError: one is missing, of another shape, or not finite.
    """
    missing = [key for key in NPZ_ZCA if key not in arrays]
    if missing:
        raise BundleError(f"{name}: no array '{missing[0]}' beside the other parts of the whitening")
    mean, matrix, inverse = (numbers(arrays[key], name).float() for key in NPZ_ZCA[:3])
    size = len(matrix) if matrix.ndim else 0
    epsilon = numbers(arrays[NPZ_ZCA[3]], name)
    shapes = [tuple(part.shape) for part in (mean, matrix, inverse, epsilon)]
    finite = all(bool(torch.isfinite(part).all()) for part in (mean, matrix, inverse))
    if shapes != [(1, size), (size, size), (size, size), ()] or not finite or not 0 < float(epsilon) < 1e6:
        raise BundleError(f"{name}: its whitening has shapes {shapes} or holds numbers that are not finite")
    return Zca(mean, matrix, inverse, float(epsilon))


IMPORTER = Npz

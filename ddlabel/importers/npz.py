"""NumPy `.npz` files with `images`, `labels`, maybe `soft_labels` and `lr`, or as `ddlabel export` writes them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, suggest
from ..options import opt
from ..zca import Zca
from ._checks import check_step_size, images_of, labels_of
from ._importer import Foreign
from ._sidecar import described, read_sidecar
from ._sources import Sources, shown

__all__ = ["IMPORTER"]

MAX_MEMBER_BYTES = 32 * 2**30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 2**20
"""Members up to this size may be compressed by any ratio."""
SOFT = ("soft_labels", "soft", "labels_soft")
ZCA = ("zca_mean", "zca_matrix", "zca_inverse", "zca_epsilon")
EXPORT = "ddset_export"
"""Text with the description that `ddlabel export` gives its files."""
OTHERS = ("labels_dense", "labels_fkd", "labels_feature", "labels_attention")
"""Labels of `ddlabel export` that are not taken."""
KNOWN = ("images", "images_float", "labels", "lr", "student_lr", *SOFT, *ZCA, EXPORT)


@dataclass(frozen=True, kw_only=True)
class Npz:
    """Images uint8 or float, (n, h, w), (n, h, w, c) or (n, c, h, w); labels (n,) classes or (n, k) soft labels.

    Files of `ddlabel export` state their facts and hold the whitening. Of their labels the soft ones are taken.
    """

    layout: str | None = opt(
        None,
        "order of the axes of 4-dimensional images; auto sees which axis has 1 or 3 entries",
        choices=("nhwc", "nchw"),
    )

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """One file whose name ends so."""
        return len(sources.paths) == 1 and sources.paths[0].suffix.lower() == ".npz"

    def read(self, sources: Sources) -> Foreign:
        """All arrays of a known name."""
        path = sources.only
        name = shown(path)
        arrays = _arrays(sources, path, name)
        labels, soft = labels_of(_tensor(arrays["labels"], name), name)
        given = next((key for key in SOFT if key in arrays), None)
        if given is not None:
            nothing, soft = labels_of(_one_view(_tensor(arrays[given], name)), name)
            if soft is None or nothing is not None:
                raise BundleError(f"{name}: '{given}' is {arrays[given].shape}, expected floats of shape (n, k)")
        step = arrays.get("lr", arrays.get("student_lr"))
        is_space = "images" not in arrays
        foreign = Foreign(
            name=name,
            images=images_of(self._channels_first(arrays["images_float" if is_space else "images"], name), name),
            values="space" if is_space else None,
            labels=labels,
            soft=soft,
            lr=None if step is None else check_step_size(_tensor(step, name), name),
            zca=_whitening(arrays, name) if "zca_matrix" in arrays else None,
            said={"labels": name} | ({"lr": name} if step is not None else {}),
            notes=_left_out(arrays, name),
        )
        return described(foreign, read_sidecar(str(arrays[EXPORT]), name), name) if EXPORT in arrays else foreign

    def _channels_first(self, array: np.ndarray[Any, Any], name: str) -> Tensor:
        images = _tensor(array, name)
        if images.ndim == 3:
            return images[:, None]
        if images.ndim != 4:
            raise BundleError(f"{name}: 'images' has shape {array.shape}, expected 3 or 4 axes")
        fits = {"nchw": images.shape[1] in {1, 3}, "nhwc": images.shape[3] in {1, 3}}
        if self.layout is None and all(fits.values()):
            raise BundleError(
                f"{name}: 'images' of shape {array.shape} may have channels first or last",
                hint="say --set layout=nhwc or layout=nchw",
            )
        layout = self.layout or ("nhwc" if fits["nhwc"] else "nchw")
        return images.permute(0, 3, 1, 2) if layout == "nhwc" else images


def _arrays(sources: Sources, path: Path, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays by name, every one of plain numbers."""
    data = sources.read(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                bomb = member.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * member.compress_size)
                if bomb or member.file_size > MAX_MEMBER_BYTES:
                    raise BundleError(
                        f"{name}: member {ascii(member.filename)[:80]} says it holds {member.file_size} bytes"
                    )
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            known = [key for key in KNOWN if key in arrays.files]
            missing = {"images", "labels"} - set(known)
            if "labels" in missing or (missing and "images_float" not in known):
                wanted = sorted(missing)[0]
                have = [ascii(key)[1:41] for key in arrays.files[:20]]
                raise BundleError(f"{name}: no array '{wanted}'{suggest(wanted, have)}")
            left = {key: np.empty(0) for key in arrays.files if key in OTHERS}
            return left | {key: arrays[key] for key in known}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise BundleError(f"{name}: not a readable .npz file ({ascii(str(error))[1:80]})") from error
    except ValueError as error:
        raise BundleError(
            f"{name}: holds Python objects or a damaged array", hint="unsafe pickle refused: save plain numbers"
        ) from error


def _whitening(arrays: Mapping[str, np.ndarray[Any, Any]], name: str) -> Zca:
    """Mean, matrix and inverse of a ZCA that the file holds.

    Raises:
        BundleError: one is missing, of another shape, or not finite.
    """
    missing = [key for key in ZCA if key not in arrays]
    if missing:
        raise BundleError(f"{name}: no array '{missing[0]}' beside the other parts of the whitening")
    mean, matrix, inverse = (_tensor(arrays[key], name).float() for key in ZCA[:3])
    size, epsilon = len(matrix), float(arrays[ZCA[3]])
    shapes = [tuple(part.shape) for part in (mean, matrix, inverse)]
    finite = all(bool(torch.isfinite(part).all()) for part in (mean, matrix, inverse))
    if shapes != [(1, size), (size, size), (size, size)] or not finite or not 0 < epsilon < 1e6:
        raise BundleError(f"{name}: its whitening has shapes {shapes} or holds numbers that are not finite")
    return Zca(mean, matrix, inverse, epsilon)


def _left_out(arrays: Mapping[str, np.ndarray[Any, Any]], name: str) -> tuple[str, ...]:
    kinds = [key.removeprefix("labels_") for key in OTHERS if key in arrays]
    return (f"{name}: labels of kind {' and '.join(kinds)} are left out",) if kinds else ()


def _one_view(soft: Tensor) -> Tensor:
    """Soft labels (n, k) of (n, 1, k)."""
    return soft[:, 0] if soft.ndim == 3 and soft.shape[1] == 1 else soft


def _tensor(array: np.ndarray[Any, Any], name: str) -> Tensor:
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise BundleError(f"{name}: an array of {array.dtype}, expected plain numbers")
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        native = native.astype(np.int64)
    return torch.from_numpy(native.copy() if not native.flags.writeable else native)


IMPORTER = Npz

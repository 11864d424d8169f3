"""NumPy `.npz` files with arrays `images` and `labels`, and maybe `soft_labels` and `lr`; nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, suggest
from ..options import opt
from ._checks import check_step_size, images_of, labels_of
from ._importer import Foreign
from ._sources import Sources, shown

__all__ = ["IMPORTER"]

MAX_MEMBER_BYTES = 32 * 2**30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 2**20
"""Members up to this size may be compressed by any ratio."""
SOFT = ("soft_labels", "soft")


@dataclass(frozen=True, kw_only=True)
class Npz:
    """Images uint8 or float, (n, h, w), (n, h, w, c) or (n, c, h, w); labels (n,) classes or (n, k) soft labels."""

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
            nothing, soft = labels_of(_tensor(arrays[given], name), name)
            if soft is None or nothing is not None:
                raise BundleError(f"{name}: '{given}' is {arrays[given].shape}, expected floats of shape (n, k)")
        step = arrays.get("lr")
        return Foreign(
            name=name,
            images=images_of(self._channels_first(arrays["images"], name), name),
            values=None,
            labels=labels,
            soft=soft,
            lr=None if step is None else check_step_size(_tensor(step, name), name),
            said={"labels": name} | ({"lr": name} if step is not None else {}),
        )

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
            known = [key for key in ("images", "labels", "lr", *SOFT) if key in arrays.files]
            missing = {"images", "labels"} - set(known)
            if missing:
                wanted = sorted(missing)[0]
                have = [ascii(key)[1:41] for key in arrays.files[:20]]
                raise BundleError(f"{name}: no array '{wanted}'{suggest(wanted, have)}")
            return {key: arrays[key] for key in known}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise BundleError(f"{name}: not a readable .npz file ({ascii(str(error))[1:80]})") from error
    except ValueError as error:
        raise BundleError(
            f"{name}: holds Python objects or a damaged array", hint="unsafe pickle refused: save plain numbers"
        ) from error


def _tensor(array: np.ndarray[Any, Any], name: str) -> Tensor:
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise BundleError(f"{name}: an array of {array.dtype}, expected plain numbers")
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        native = native.astype(np.int64)
    return torch.from_numpy(native.copy() if not native.flags.writeable else native)


IMPORTER = Npz

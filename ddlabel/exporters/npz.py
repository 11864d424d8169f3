"""Arrays of NumPy: images, every label kind decoded, and all constants of the input space; nothing is pickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..interchange import (
    EXACT8,
    FLOAT32,
    NPZ_CLASSES,
    NPZ_EXPORT,
    NPZ_IMAGES,
    NPZ_IMAGES_FLOAT,
    NPZ_LABELS,
    NPZ_LR,
    NPZ_SPACE,
    NPZ_ZCA,
    domain_of_labels,
)
from ._exporter import BATCH, Content, Description, Exporter, Open, describe_labels, label_arrays, norm_arrays
from ._lost import lost_labels, lost_sections

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EXPORTER"]

_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member, so that the same bundle gives the same bytes."""


class Npz(Exporter):
    """Everything that training needs, exactly.

    Keys: `images` (n, h, w, c) uint8, or `images_float` (n, c, h, w) float32 in model-input space; `labels` (n,)
    int64; `classes` (k,) text; `space` text, `mean` and `std` (c,) float64; `zca_mean` (1, d), `zca_matrix` and
    `zca_inverse` (d, d) float32 and `zca_epsilon` where images are whitened; `student_lr` float32 where one was
    learned; `labels_<kind>` as `label_arrays` says, with `labels_<kind>_domain`; `ddset_export`, the sidecar as JSON.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".npz",)

    def holds(self, kind: str) -> bool:
        """All of them."""
        return bool(kind)

    def describe(self, content: Content) -> Description:
        """Images exactly as they are stored."""
        is_uint8 = content.stored.pixels.element_size() == 1
        return Description(
            images={"form": EXACT8 if is_uint8 else FLOAT32, "in": NPZ_IMAGES if is_uint8 else NPZ_IMAGES_FLOAT},
            labels={"hard": {"in": NPZ_LABELS}, **describe_labels(content)},
            lost=(*lost_labels(content), *lost_sections(content)),
        )

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """An uncompressed archive, images a few at a time."""
        import numpy as np

        with file("") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            _write_images(archive, content)
            for name, array in _arrays(content).items():
                _write(archive, name, array.dtype, array.shape, iter([array]))
            text = np.array(json.dumps(document, sort_keys=True, allow_nan=False))
            _write(archive, NPZ_EXPORT, text.dtype, text.shape, iter([text]))


def _arrays(content: Content) -> dict[str, np.ndarray]:
    """All arrays but the images."""
    import numpy as np

    space = content.stored.space
    arrays = {
        NPZ_LABELS: content.stored.labels.numpy(),
        NPZ_CLASSES: np.array(content.stored.classes),
        NPZ_SPACE[0]: np.array(space.kind),
        NPZ_SPACE[1]: np.array(space.mean, dtype=np.float64),
        NPZ_SPACE[2]: np.array(space.std, dtype=np.float64),
    }
    if space.zca is not None:
        parts = (space.zca.mean.numpy(), space.zca.matrix.numpy(), space.zca.inverse.numpy())
        arrays |= dict(zip(NPZ_ZCA, (*parts, np.array(space.zca.epsilon)), strict=True))
    if content.lr is not None:
        arrays[NPZ_LR] = np.array(content.lr, dtype=np.float32)
    arrays |= label_arrays(content) | norm_arrays(content)
    for kind, labels in content.richer().items():
        arrays[domain_of_labels(kind)] = np.array(labels.section.domain)
    return arrays


def _write_images(archive: zipfile.ZipFile, content: Content) -> None:
    import numpy as np
    import torch

    stored = content.stored
    count, channels, height, width = stored.pixels.shape
    is_uint8 = stored.pixels.dtype == torch.uint8
    shape = (count, height, width, channels) if is_uint8 else (count, channels, height, width)

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, count, BATCH):
            rows = slice(start, start + BATCH)
            part = stored.pixels[rows].permute(0, 2, 3, 1) if is_uint8 else stored.encode(rows)
            yield part.contiguous().numpy()
            content.step(start + BATCH)

    name = NPZ_IMAGES if is_uint8 else NPZ_IMAGES_FLOAT
    _write(archive, name, np.dtype(np.uint8 if is_uint8 else np.float32), shape, parts())


def _write(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...], parts: Iterator[np.ndarray]
) -> None:
    """One array, given in parts along its first axis, as `NAME.npy`."""
    import numpy as np

    little = dtype.newbyteorder("<")
    member = zipfile.ZipInfo(f"{name}.npy", _DATE)
    member.create_system, member.external_attr = 3, 0o644 << 16
    with archive.open(member, "w", force_zip64=True) as stream:
        said = {"descr": np.lib.format.dtype_to_descr(little), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, said)
        for part in parts:
            stream.write(np.ascontiguousarray(part, dtype=little).tobytes())


EXPORTER = Npz()

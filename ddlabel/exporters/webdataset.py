"""A tar file of samples as WebDataset reads them: KEY.png, KEY.cls and, with richer labels, KEY.json.

KEY is the six-digit index of the image in the bundle. The member `__ddset-export__`, which readers skip by its name,
is the sidecar. Owners are 0 and times are 1970, so that the same bundle gives the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..interchange import TAR_EXPORT, encode_sidecar
from ._exporter import Content, Description, Exporter, Open, check_channels, describe_labels, label_arrays
from ._lost import lost_labels, lost_norms, lost_pictures, lost_sections

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EXPORTER"]


class WebDataset(Exporter):
    """One tar file, read from its beginning to its end."""

    suffixes: ClassVar[tuple[str, ...]] = (".tar",)
    has_pictures: ClassVar[bool] = True

    def holds(self, kind: str) -> bool:
        """All of them."""
        return bool(kind)

    def check(self, content: Content) -> None:
        """Pictures have 1 or 3 channels."""
        check_channels(content, "webdataset")

    def describe(self, content: Content) -> Description:
        """Pictures and labels by sample."""
        return Description(
            images={"in": "KEY.png", **(content.pictures.record() if content.pictures else {})},
            labels={"hard": {"in": "KEY.cls"}, **describe_labels(content)},
            lost=(*lost_pictures(content), *lost_labels(content), *lost_norms(content), *lost_sections(content)),
        )

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """Samples in the bundle's order, members of one sorted."""
        from ._pictures import png

        if content.pictures is None:
            raise ValueError("a tar of samples holds pictures, and none were drawn")
        arrays, classes = label_arrays(content), content.stored.classes
        with file("") as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            _add(archive, TAR_EXPORT, encode_sidecar(document))
            for index, label in enumerate(content.stored.labels.tolist()):
                key = f"{index:06d}"
                _add(archive, f"{key}.cls", str(label).encode())
                if arrays:
                    more = {name: _numbers(array[index]) for name, array in arrays.items()}
                    text = json.dumps({"class": classes[label], "label": label, **more}, sort_keys=True)
                    _add(archive, f"{key}.json", text.encode())
                _add(archive, f"{key}.png", png(content.pictures.pixels[index]))
                content.step(index + 1)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


def _numbers(array: np.ndarray) -> Any:
    """Nested lists of numbers in their shortest form: float32 values come back exactly when read as float32."""
    if array.dtype.kind != "f":
        return array.tolist()
    return array.astype(str).astype(float).tolist()


EXPORTER = WebDataset()

"""Label values behind a codec: what a section says of it, and its parts as values again, whatever the file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .. import _plugins
from ..bundle import Bundle
from ..codecs._codec import Codec, Shape
from ..errors import BundleError, UsageError
from ..manifest import Section
from ..options import build
from ._checks import RELABEL, Place

__all__ = ["DRAWS", "NORM", "check_current", "decode", "image_count", "load_codec", "load_record"]

DRAWS = "augmentation."
"""How the names of stored draws begin, after the name of their section."""
NORM = "shared_norm_"
"""How the names of a stored norm begin, after the name of their section."""


def check_current(bundle: Bundle, section: Section, place: Place) -> tuple[str, int]:
    """Refuse a section that does not say its codec, or whose images changed since.

    Returns:
        Its domain, and how many views of each image it holds.

    Raises:
        BundleError: naming the section.
    """
    if section.codec is None or section.domain is None or section.views is None:
        raise BundleError(f"{place} does not say its codec, domain and views", field=section.name)
    if section.stale or section.of != bundle.images_digest():
        raise BundleError(
            f"{place} is stale: the images changed after they were labelled", field=section.name, hint=RELABEL
        )
    return section.domain, section.views


def load_codec(section: Section, place: Place) -> Codec:
    """The codec that a section names, with its options.

    Raises:
        BundleError: impossible options.
        UsageError: unknown codec.
    """
    said = section.codec or {}
    codec: Codec = load_record(_plugins.load("codecs", str(said["name"]), "CODEC"), said["parameters"], place)
    return codec


def load_record(plugin: type[Any], options: Mapping[str, Any], place: Place) -> Any:
    """A record with options that came from a file; as texts, so that their types are checked like a user's.

    Raises:
        BundleError: impossible options.
    """
    try:
        return build(plugin, {key: _text(value) for key, value in options.items()})
    except UsageError as error:
        raise BundleError(
            f"{place} was written with impossible options: {error.message}", field=place.section, hint=RELABEL
        ) from error


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def decode(bundle: Bundle, section: Section, codec: Codec, place: Place, width: int) -> Tensor:
    """Values (n, v, width) of a section.

    Args:
        bundle, section: where they are.
        codec: from `load_codec`.
        place: of the labels, in messages.
        width: values of one view: classes, or elements of a feature.

    Raises:
        BundleError: the codec did not write such parts.
    """
    prefix = f"{section.name}."
    shape: Shape = (image_count(bundle), section.views or 0, width)
    parts = {part.removeprefix(prefix): bundle.tensor(part) for part in section.tensors}
    parts = {part: tensor for part, tensor in parts.items() if not part.startswith((DRAWS, NORM))}
    try:
        return codec.decode(parts, shape)
    except (BundleError, UsageError, KeyError, RuntimeError, IndexError, ValueError) as error:
        raise BundleError(
            f"{place} does not hold what codec '{(section.codec or {})['name']}' wrote: {error}",
            field=section.name,
            hint=RELABEL,
        ) from error


def image_count(bundle: Bundle) -> int:
    """Stored images, from the manifest alone."""
    record = bundle.section("images").tensors["images.pixels"]
    shape: Sequence[Any] = record.get("packed", record)["shape"]
    return int(shape[0])

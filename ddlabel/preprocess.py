"""Preprocessing as data: how a bundle says which input space its images and nets live in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from . import seeding
from .bundle import Bundle, NewSection
from .errors import BundleError
from .space import Space
from .zca import Zca

__all__ = ["ZCA_SECTION", "check_agreement", "describe_space", "read_space", "space_sections"]

ZCA_SECTION = "transform.zca"
CLOSE = 1e-2
"""How near images in [0, 1] must come back from whitening."""
_WRITE_AGAIN = "write the bundle again from the data it was made of"


def describe_space(space: Space) -> dict[str, Any]:
    """The manifest's `data.space` record of an input space."""
    record: dict[str, Any] = {"kind": space.kind, "mean": list(space.mean), "std": list(space.std)}
    if space.zca is not None:
        record |= {"epsilon": space.zca.epsilon, "section": ZCA_SECTION}
    return record


def space_sections(space: Space) -> list[NewSection]:
    """The tensors that the space needs: none when normalised, mean and matrix when ZCA-whitened.

    Section `transform.zca` holds `mean` (1, d), `matrix` and `inverse` (d, d), float32, d = c*h*w.
    """
    if space.zca is None:
        return []
    tensors = {
        f"{ZCA_SECTION}.mean": space.zca.mean,
        f"{ZCA_SECTION}.matrix": space.zca.matrix,
        f"{ZCA_SECTION}.inverse": space.zca.inverse,
    }
    return [NewSection(ZCA_SECTION, "transform", tensors, parameters={"epsilon": space.zca.epsilon})]


def read_space(bundle: Bundle) -> Space:
    """The input space of a bundle.

    Raises:
        BundleError: the bundle does not say, or its whitening does not fit its images.
    """
    data = data_of(bundle)
    record = data["space"]
    mean, std = tuple(record["mean"]), tuple(record["std"])
    if not len(mean) == len(std) == data["channels"] or min(std) <= 0:
        raise BundleError(
            f"{bundle.name}: 'data.space' has mean {_short(mean)} and std {_short(std)}, expected {data['channels']} "
            "of each and every std above 0",
            field="data.space",
        )
    if record["kind"] != "zca":
        return Space(kind="normalised", mean=mean, std=std, zca=None)
    if not {"section", "epsilon"} <= record.keys():
        raise BundleError(f"{bundle.name}: 'data.space' of kind 'zca' needs section and epsilon", field="data.space")
    name = record["section"]
    size = data["channels"] * data["height"] * data["width"]
    parts = {part: bundle.tensor(f"{name}.{part}") for part in ("mean", "matrix", "inverse")}
    wanted = {"mean": (1, size), "matrix": (size, size), "inverse": (size, size)}
    for part, shape in wanted.items():
        if tuple(parts[part].shape) != shape:
            raise BundleError(
                f"{bundle.name}: '{name}.{part}' has shape {tuple(parts[part].shape)}, expected {shape} for its images",
                field=f"{name}.{part}",
                hint=_WRITE_AGAIN,
            )
    zca = Zca(**parts, epsilon=record["epsilon"])
    if not _is_invertible(zca):
        raise BundleError(
            f"{bundle.name}: '{name}.matrix' is singular, or '{name}.inverse' is not its inverse",
            field=f"{name}.matrix",
            hint=_WRITE_AGAIN,
        )
    return Space(kind="zca", mean=mean, std=std, zca=zca)


def _is_invertible(zca: Zca) -> bool:
    """Whether whitening can be undone, by two drawn images: a full product would cost d^3.

    With float32 tensors, as `fit_zca` makes them, two images come back within some 1e-5.
    """
    if any(part.dtype != torch.float32 for part in (zca.mean, zca.matrix, zca.inverse)):
        return False
    drawn = torch.rand(2, zca.mean.shape[1], 1, 1, generator=seeding.generator(0, "whitening"))
    error = (zca.unwhiten(zca.whiten(drawn)) - drawn).abs().amax()
    return bool(error <= CLOSE)  # not a number is not close


def data_of(bundle: Bundle) -> Mapping[str, Any]:
    """The data record of a bundle: names, sizes, normalisation.

    Raises:
        BundleError: it has none, so nothing is known of its images.
    """
    data = bundle.manifest.data
    if data is None:
        raise BundleError(f"{bundle.name}: no record of the data it was made of", field="data")
    return data


def check_agreement(left: Bundle, right: Bundle) -> None:
    """Refuse two bundles that do not speak of the same images: classes in order, shape, input space.

    Raises:
        BundleError: naming the field and both sides.
    """
    ours, theirs = data_of(left), data_of(right)
    for field in ("classes", "channels", "height", "width"):
        _same(field, ours[field], theirs[field], left.name, right.name)
    for field in ("kind", "mean", "std"):
        _same(f"space.{field}", ours["space"][field], theirs["space"][field], left.name, right.name)


def _same(field: str, ours: Any, theirs: Any, left: str, right: str) -> None:
    if ours != theirs:
        raise BundleError(
            f"{left} and {right} disagree on '{field}': {_short(ours)} against {_short(theirs)}",
            field=field,
            hint="use a teacher trained on the data, size and space of the images",
        )


def _short(value: Any) -> str:
    text = ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."

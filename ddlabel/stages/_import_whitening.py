"""Whether a whitening is the one that foreign images were made with."""

from __future__ import annotations

from typing import Any

from ..errors import BundleError
from ..events import Event, OnEvent
from ..importers._importer import Foreign
from ..space import Space
from ..zca import Zca

__all__ = ["TWIN_RMSE", "check_twin", "check_whitening"]

TWIN_RMSE = 0.05
"""Root mean square, in [0, 1] units, from which un-whitened images no longer show what the files show."""


def check_whitening(foreign: Foreign, zca: Zca) -> None:
    """Refuse a whitening of the files that is of images of another size; raises BundleError."""
    wanted = foreign.images[0].numel()
    if len(zca.matrix) != wanted:
        raise BundleError(f"{foreign.name}: a whitening of {len(zca.matrix)} values, its images have {wanted}")


def check_twin(foreign: Foreign, space: Space, on_event: OnEvent) -> dict[str, Any]:
    """How far decoded images are from what the files show of them, and of which iteration that was measured.

    A whitening that was fitted again and that no file checks is said to be unchecked.
    """
    twin = foreign.twin
    if twin is None:
        if space.zca is not None and foreign.zca is None:
            note = f"{foreign.name}: no file shows its images un-whitened, so that the whitening is not verified"
            on_event(Event(phase="import", message=f"note: {note}"))
        return {}
    images = foreign.images if twin.images is None else twin.images
    rmse = float((space.decode(images) - twin.units).square().mean().sqrt())
    if rmse > TWIN_RMSE:
        on_event(
            Event(
                phase="import",
                message=f"warning: decoded images differ from those that the files show by {rmse:.3f} (root mean "
                "square of values from 0 to 1): another data set, or another input space?",
            )
        )
    return {"twin_rmse": rmse} | ({} if twin.images is None else {"twin_iteration": twin.iteration})

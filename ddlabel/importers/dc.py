"""DC's, DSA's and DM's `res_*.pt` with one set per experiment (arXiv:2006.05929), or a dict of images and labels."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BundleError, UsageError
from ..options import opt
from ._checks import DROP, both_labels, images_of, labels_of, step_size
from ._importer import Foreign
from ._sidecar import with_sidecar
from ._sources import Sources, entries_of, shown
from ._torch_file import is_torch_file, read_torch

__all__ = ["IMPORTER"]

NET = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
RESULT = re.compile(r"res_.{1,250}\.pt", re.DOTALL)
MAX_RUNS = 10_000


@dataclass(frozen=True, kw_only=True)
class Dc:
    """`{data: [[images, labels] per experiment], accs_all_exps: {net: [accuracy, ...]}}`, as DataDAM writes it too.

    Images are in the input space, normalised and not clipped. A plain `{images, labels}`, with `soft_labels` and `lr`
    where there are any, does not say what its images are.
    """

    experiment: int | None = opt(
        None, "which experiment, counted from 0; auto is the last, as the authors' code takes", min=0
    )
    lr: str = opt("take", "learned step size of the files: take or drop", choices=DROP)

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """One file of torch.save that is not called as MTT and IDC call theirs, or a folder with one result."""
        if len(sources.paths) != 1 or not sources.paths[0].is_file():
            return len(sources.paths) == 1 and len(_results(sources.paths[0])) == 1
        name = sources.paths[0].name
        if not name.endswith((".pt", ".pth")):
            return False
        return not re.match(r"(images|labels|lr)_|data\.pt$", name) and is_torch_file(sources, sources.paths[0])

    def read(self, sources: Sources) -> Foreign:
        """One experiment, and what the file says of the accuracy of all."""
        path = _file(sources.only)
        name = shown(path)
        content = read_torch(sources, path)
        if isinstance(content, dict) and {"images", "labels"} <= content.keys():
            return with_sidecar(self._plain(content, name), sources, path, lr=self.lr)
        if isinstance(content, list | tuple) and len(content) == 2:
            raise BundleError(
                f"{name}: a pair, no result of DC, DSA or DM",
                hint="of images and labels as IDC writes them: --format idc",
            )
        experiments = content.get("data") if isinstance(content, dict) else None
        if not isinstance(experiments, list | tuple) or not experiments:
            raise BundleError(f"{name}: no list 'data' of experiments, expected a result of DC, DSA or DM")
        index = len(experiments) - 1 if self.experiment is None else self.experiment
        if index >= len(experiments):
            raise UsageError(
                f"experiment {index} is not in {name}, which has 0 to {len(experiments) - 1}", field="experiment"
            )
        pair = experiments[index]
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BundleError(f"{name}: experiment {index} is no pair of images and labels")
        labels, soft = labels_of(pair[1], name)
        published = _published(content.get("accs_all_exps"))
        foreign = Foreign(
            name=name,
            images=images_of(pair[0], name),
            values="space",
            labels=labels,
            soft=soft,
            said={"labels": name},
            metrics={"experiment": index, "experiments": len(experiments)}
            | ({"published": published} if published else {}),
        )
        return with_sidecar(foreign, sources, path, lr=self.lr)

    def _plain(self, content: Mapping[str, Any], name: str) -> Foreign:
        if self.experiment is not None:
            raise UsageError(f"{name} has no experiments to choose from", field="experiment", hint="drop it")
        labels, soft = (
            both_labels(content["labels"], content["soft_labels"], "soft_labels", name)
            if "soft_labels" in content
            else labels_of(content["labels"], name)
        )
        step, notes = step_size(content.get("lr"), name, self.lr)
        return Foreign(
            name=name,
            images=images_of(content["images"], name),
            values=None,
            labels=labels,
            soft=soft,
            lr=step,
            notes=notes,
            said={"labels": name} | ({"lr": name} if step is not None else {}),
        )


def _results(folder: Path) -> list[Path]:
    """Files in a folder that are called as results are."""
    if not folder.is_dir():
        return []
    return [Path(entry.path) for entry in entries_of(folder) if RESULT.fullmatch(entry.name) and entry.is_file()]


def _file(path: Path) -> Path:
    """The file that was given, or the one result in the folder that was given."""
    if not path.is_dir():
        return path
    found = _results(path)
    if len(found) != 1:
        raise BundleError(
            f"{shown(path)}: holds {len(found)} files res_*.pt, expected one", hint="give the file itself"
        )
    return found[0]


def _published(said: Any) -> dict[str, dict[str, float | int]]:
    """Accuracies that the authors measured, over all experiments, as fractions by net; only what is well formed."""
    found: dict[str, dict[str, float | int]] = {}
    for net, values in said.items() if isinstance(said, dict) else ():
        if not (isinstance(net, str) and NET.fullmatch(net) and isinstance(values, list)) or len(values) > MAX_RUNS:
            continue
        numbers = [value for value in values if isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1]
        if numbers and len(numbers) == len(values):
            found[net] = {
                "accuracy": statistics.fmean(numbers),
                "deviation": statistics.pstdev(numbers),
                "runs": len(numbers),
            }
    return found


IMPORTER = Dc

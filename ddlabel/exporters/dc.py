"""One `.pt` file as DC, DSA and DM write their `res_<METHOD>_<DATASET>_<NET>_<k>ipc.pt`: images, labels, accuracies.

A dict `data`: [[images (n, c, h, w) float32 in training space, labels (n,) int64]], one experiment; and
`accs_all_exps`: {net: [accuracies, fractions]}, those of the bundle's scores on these images with hard labels. It opens
with `torch.load(weights_only=True)`; accuracies are plain numbers, where theirs are NumPy's and need an allow-list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, ClassVar, cast

from ..interchange import DC_DATA, DC_SCORES, FLOAT32
from ._exporter import Content, Description, Exporter, Open
from ._lost import lost_labels, lost_sections, lost_whitening

__all__ = ["EXPORTER"]


class Dc(Exporter):
    """What the evaluation code of these methods opens, to the bit what students here train on."""

    suffixes: ClassVar[tuple[str, ...]] = (".pt",)

    def describe(self, content: Content) -> Description:
        """One experiment."""
        lost = [*lost_whitening(content), *lost_labels(content), *lost_sections(content, but=("evaluations",))]
        if content.lr is not None:
            lost.append(f"the learned step size {content.lr:g} has no place in this format")
        return Description(
            images={"form": FLOAT32, "in": "data[0][0]"},
            labels={"hard": {"in": "data[0][1]"}},
            lost=tuple(lost),
        )

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """One dict."""
        import torch

        del document
        result = {DC_DATA: [[content.images(), content.stored.labels]], DC_SCORES: _accuracies(content)}
        with file("") as stream:
            torch.save(result, cast(IO[bytes], stream))
        content.step(len(content.stored))


def _accuracies(content: Content) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    digest = content.bundle.images_digest()
    for evaluation in content.bundle.manifest.evaluations:
        for result in evaluation["results"] if evaluation.get("images") == digest else ():
            if result.get("images") == "bundle" and result.get("labels") == "hard":
                found.setdefault(result["arch"], []).extend(float(value) for value in result["accuracy"]["values"])
    return found


EXPORTER = Dc()

"""One `.pt` file as DC, DSA and DM write their `res_<METHOD>_<DATASET>_<NET>_<k>ipc.pt`: images, labels, accuracies.

A dict `data`: [[images (n, c, h, w) float32 in training space, labels (n,) int64]], one experiment; and
`accs_all_exps`: {net: [accuracies, fractions]}, those of the last evaluation of these images with hard labels, which
the sidecar names. It opens with `torch.load(weights_only=True)`; accuracies are plain numbers, where theirs are NumPy's
and need an allow-list.
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
        accuracies, scores = _scores(content)
        lost = [*lost_whitening(content), *lost_labels(content), *lost_sections(content, but=("evaluations",))]
        rows = sum(len(evaluation["results"]) for evaluation in content.bundle.manifest.evaluations)
        if rows > len(accuracies):
            lost.append("scores of other evaluations, images, labels or options are left out (--format scores)")
        if content.lr is not None:
            lost.append(f"the learned step size {content.lr:g} has no place in this format")
        return Description(
            images={"form": FLOAT32, "in": "data[0][0]"},
            labels={"hard": {"in": "data[0][1]"}},
            lost=tuple(lost),
            more={} if scores is None else {"scores": scores},
        )

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """One dict."""
        import torch

        del document
        result = {DC_DATA: [[content.images(), content.stored.labels]], DC_SCORES: _scores(content)[0]}
        with file("") as stream:
            torch.save(result, cast(IO[bytes], stream))
        content.step(len(content.stored))


def _scores(content: Content) -> tuple[dict[str, list[float]], dict[str, Any] | None]:
    """Accuracies by net of the last evaluation of these images with hard labels, and which one that is.

    One protocol and one loss: a net that was scored in several ways has the first of them. Students of some of the
    classes, and of other images, are not among them.
    """
    digest = content.bundle.images_digest()
    for index, evaluation in reversed([*enumerate(content.bundle.manifest.evaluations)]):
        found: dict[str, list[float]] = {}
        for result in evaluation["results"] if evaluation.get("images") == digest else ():
            is_ours = (result.get("images"), result.get("labels"), result.get("steps")) == ("bundle", "hard", None)
            if is_ours and result["arch"] not in found:
                found[result["arch"]] = [float(value) for value in result["accuracy"]["values"]]
        if found:
            return found, {"evaluation": index, "protocol": evaluation["protocol"], "in": DC_SCORES}
    return {}, None


EXPORTER = Dc()

"""What pictures of distilled images cost: students of the bundle against students of the pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..bundle import Bundle, StageRecord
from ..config import EvaluateConfig, ExportConfig
from ..distilled import image_section
from ..errors import UsageError
from ..events import Event, OnEvent
from ..exporters._exporter import Content
from ..labels._labels import choose_kind
from ..preprocess import ZCA_SECTION, data_of, describe_space
from ..scores import paired_difference, summarise
from ..space import Space
from .evaluate import run as evaluate

__all__ = ["measure"]

BUNDLE, PICTURES, WHITENED = "bundle", "pictures", "pictures, whitened again"
HARD = "hard"
CARRIED = ("labels.hard", "student.lr", "scores.mosaic")


def measure(content: Content, config: ExportConfig, on_event: OnEvent) -> dict[str, Any] | None:
    """Train the same students on several versions of the set and compare them seed by seed.

    Rows: the bundle with its richest class labels, where the format leaves these out; the bundle with hard labels; the
    pictures with hard labels, normalised by the data's constants as whoever has the pictures alone must; and of
    whitened images the pictures whitened by the bundle's matrix, which is what 8 bits alone cost. Rows that must be
    equal, because pictures are exact, are not trained twice.

    Returns:
        `data`, and `rows`: `images`, `labels`, `accuracy` (fractions), and `minus_bundle`, the paired difference to
        the first row. None where pictures are exact and labels the same, so that nothing can differ.

    Raises:
        UsageError: no data set to test on.
    """
    if config.data is None:
        raise UsageError("--measure needs test images, option 'data' is missing", field="data", hint="add --data NAME")
    bundle, exact = content.bundle, content.pictures is None or content.pictures.view is None
    is_whitened = content.stored.space.zca is not None
    richest = choose_kind(bundle)
    versions: list[tuple[str, Bundle, str]] = []
    if richest != HARD and richest not in content.labels:
        versions.append((BUNDLE, bundle, richest))
    elif exact and not is_whitened:
        message = "pictures are exact: their students are those of the bundle, there is nothing to measure"
        on_event(Event(phase="measuring", message=message))
        return None
    if not exact or is_whitened:
        versions.append((BUNDLE, bundle, HARD))
    versions.append((PICTURES, _of_pictures(content, whitened=False), HARD))
    if is_whitened and not exact:
        versions.append((WHITENED, _of_pictures(content, whitened=True), HARD))
    rows: list[dict[str, Any]] = []
    for images, version, labels in versions:
        values = _accuracies(version, labels, config, images, on_event)
        row: dict[str, Any] = {"images": images, "labels": labels, "accuracy": summarise(values)}
        if rows:
            row["minus_bundle"] = paired_difference(values, rows[0]["accuracy"]["values"])
        rows.append(row)
    return {"data": config.data.partition(":")[0], "seeds": config.seeds, "rows": rows}


def _accuracies(bundle: Bundle, labels: str, config: ExportConfig, name: str, on_event: OnEvent) -> list[float]:
    def tell(event: Event) -> None:
        said = None if event.message is None else event.message.replace(f"{BUNDLE} images", name, 1)
        on_event(dataclasses.replace(event, phase=event.phase.replace(f"{BUNDLE} images", name, 1), message=said))

    asked = EvaluateConfig(
        data=config.data or "",
        arch=() if config.arch is None else (config.arch,),
        labels=labels,
        epochs=config.epochs,
        seeds=config.seeds,
        seed=config.seed,
        device=config.device,
        threads=config.threads,
    )
    scored = evaluate(bundle, asked, on_event=tell)
    result: Mapping[str, Any] = scored.manifest.evaluations[-1]["results"][0]
    return [float(value) for value in result["accuracy"]["values"]]


def _of_pictures(content: Content, *, whitened: bool) -> Bundle:
    """A bundle of the pictures as they are in their files, with hard labels."""
    if content.pictures is None:
        raise ValueError("there are no pictures to measure")
    bundle, stored = content.bundle, content.stored.space
    space = stored if whitened else Space(kind="normalised", mean=stored.mean, std=stored.std)
    carried = [*CARRIED, *([ZCA_SECTION] if whitened else [])]
    sections = [bundle.carry(name) for name in carried if bundle.has(name)]
    record = StageRecord("export", {}, None, [bundle], {}, 0.0, 0.0, {})
    data = dict(data_of(bundle)) | {"space": describe_space(space)}
    return Bundle.create("distilled", data, record, [image_section(content.pictures.pixels, space), *sections])

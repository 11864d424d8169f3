"""Write a small bundle of every kind of section in format 1: `python tests/archives/write_v1.py FILE`.

Archives are written once, by the release that introduces a format, and never again: see `v1/README.md`.
"""

from __future__ import annotations

import struct
import sys

from ddlabel.bundle import Bundle, NewSection, Packed, RawTensor, StageRecord
from ddlabel.storage import zip_bytes

IMAGES, CLASSES, VIEWS = 6, ["circle", "square", "étoile"], 4


def floats(count: int, start: float = 0.0) -> bytes:
    """Counting float32 numbers in steps of a quarter."""
    return struct.pack(f"<{count}f", *(start + index / 4 for index in range(count)))


def stage(name: str, seed: int | None, inputs: list[Bundle]) -> StageRecord:
    """A history entry of New Year 2026."""
    host = {"device": "cpu", "threads": 1, "versions": {"ddlabel": "0.1.0"}}
    config = {"note": f"written for the archive by {name}", "ipc": 2}
    return StageRecord(name, config, seed, inputs, {"loss": 0.5}, 2.5, 1_767_225_600.0, host)


def labels(role: str, views: int, tensors: dict[str, object], **more: object) -> NewSection:
    """Labels of the archive's images."""
    return NewSection(f"labels.{role}", "labels", tensors, role=role, views=views, **more)  # type: ignore[arg-type]


def main(path: str) -> None:
    """Build the bundle stage by stage, as a pipeline does, and save it."""
    pixels = bytes(index * 7 % 256 for index in range(IMAGES * 3 * 4 * 4))
    image_tensor = RawTensor("U8", (IMAGES, 3, 4, 4), pixels)
    one_hot = b"".join(struct.pack("<3f", *(float(k == i % 3) for k in range(3))) for i in range(IMAGES))
    data = {
        "name": "shapes",
        "classes": CLASSES,
        "channels": 3,
        "height": 4,
        "width": 4,
        "train_images": 300,
        "fingerprint": "0123456789abcdef" * 4,
        "validation": {"fraction": 0.1},
        "flip": True,
        "space": {
            "kind": "zca",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.25, 0.25, 0.25],
            "epsilon": 0.1,
            "section": "transform.zca",
        },
    }
    hard = {"labels.hard": RawTensor("U8", (IMAGES,), bytes(index % 3 for index in range(IMAGES)))}
    base = Bundle.create(
        "distilled",
        data,
        stage("distill", 0, []),
        [
            NewSection(
                "images", "images", {"images.pixels": image_tensor}, range="uint8", zip_bytes=zip_bytes([pixels])
            ),
            labels("hard", 1, hard, zip_bytes=zip_bytes([one_hot])),
            NewSection("transform.zca", "transform", {"transform.zca.mean": RawTensor("F32", (1, 48), floats(48))}),
            NewSection("student", "student", {"student.lr": RawTensor("F32", (), floats(1, 0.25))}),
            NewSection("scores.el2n", "scores", {"scores.el2n": RawTensor("F16", (5,), bytes(10))}, role="el2n"),
        ],
    )
    of, values = base.images_digest(), floats(IMAGES * 3, -2.0)
    soft = {"labels.soft.values": RawTensor("F32", (IMAGES, 1, 3), values)}
    dense = {
        "labels.dense.codes": Packed(RawTensor("U8", (IMAGES, VIEWS, 3), bytes(IMAGES * VIEWS * 3))),
        "labels.dense.scale": Packed(RawTensor("F16", (IMAGES, VIEWS), b"\x00\x3c" * (IMAGES * VIEWS))),
    }
    of_teacher = {"of": of, "teacher": ["ab" * 32], "domain": "logit"}
    labelled = base.with_stage(
        stage("augment-labels", 0, [base]),
        add=[
            labels(
                "soft", 1, soft, codec={"name": "f32", "parameters": {}}, **of_teacher, zip_bytes=zip_bytes([values])
            ),
            labels(
                "dense", VIEWS, dense, codec={"name": "q8", "parameters": {}}, **of_teacher, fidelity={"cosine": 0.5}
            ),
            NewSection("teacher.0.10", "teacher", {"teacher.0.10.weight": RawTensor("BF16", (2, 2), bytes(8))}),
            NewSection("trajectory.0", "trajectory", {"trajectory.0": RawTensor("F32", (2, 3), floats(6))}),
            NewSection("novel.thing", "novelty", {"novel.thing": RawTensor("I64", (2,), bytes(16))}),
        ],
    )
    score = {"protocol": "gift", "accuracy": {"mean": 0.5, "std": 0.01, "n": 5}}
    labelled.with_evaluation(stage("evaluate", None, [labelled]), score).save(path)


if __name__ == "__main__":
    main(sys.argv[1])

"""The tables of docs/imagenet.md, from the package's own counts: `PYTHONPATH=. python docs/estimate.py`.

FLOPs are those of `ddlabel.nets._flops` (a multiply-add counts as 2, a training step as 3 forward passes); label bytes
are what the codecs make of 256 views of made-up logits. Nothing is measured on an accelerator.
"""

from __future__ import annotations

import dataclasses

import torch

from ddlabel import _plugins, seeding
from ddlabel.nets._flops import TRAINING_STEP, forward_flops
from ddlabel.nets._net import on_meta

SUSTAINED = 20e12
"""FLOP/s in float32 that the hours are for; half of it doubles them."""
NET = "resnet18"
SIDE = 224
VIEWS = 300


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, as published."""

    name: str
    images: int
    classes: int
    epochs: int
    """Of the teacher."""
    ipc: int
    """Images per class that are distilled."""

    @property
    def distilled(self) -> int:
        """Images of the distilled set."""
        return self.classes * self.ipc


SETS = (Data("ImageNet-1K", 1_281_167, 1000, 90, 10), Data("ImageNet-21K", 14_197_122, 21_841, 30, 10))


def amount(count: float, unit: str = "B") -> str:
    """A number of bytes, or of what else."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.3g} {prefix}{unit}"
        count /= 1000
    return f"{count:.3g} E{unit}"


def hours(flops: float) -> str:
    """At the sustained rate."""
    value = flops / SUSTAINED / 3600
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def view_bytes(codec: str, classes: int, **options: object) -> float:
    """What a codec spends on one view, before zstd; its shared parts are not counted."""
    made = _plugins.load("codecs", codec, "CODEC")(**options)
    values = 3 * torch.randn((256, 1, classes), generator=seeding.generator(0, "estimate"))
    parts = made.encode(values)
    return sum(part.numel() * part.element_size() for part in parts.values() if len(part) == 256) / 256


def labels(data: Data) -> list[tuple[str, str, str]]:
    """Label kinds with what a view costs and what the set costs."""
    rows = []
    for kind, views, codec, options in (
        ("soft", 1, "f32", {}),
        ("soft", 1, "q8", {}),
        ("dense, 5 x 5 windows", 25, "q8", {}),
        ("dense, 5 x 5 windows", 25, "topk-mr", {"k": 50}),
        (f"fkd, {VIEWS} views", VIEWS, "f16", {}),
        (f"fkd, {VIEWS} views", VIEWS, "topk-mr", {"k": 50}),
    ):
        each = view_bytes(codec, data.classes, **options)
        rows.append((f"{kind}, {codec}", f"{each:,.0f} B", amount(each * views * data.distilled)))
    return rows


def stages(data: Data) -> list[tuple[str, str, str, str, str, str]]:
    """Stage, what it does, FLOPs, hours, memory beside the net, what it streams."""
    shape = {"channels": 3, "size": SIDE, "classes": data.classes}
    forward = forward_flops(NET, **shape)
    step = TRAINING_STEP * forward
    net = on_meta(NET, **shape)
    weights = sum(parameter.numel() for parameter in net.parameters()) * 4
    pool, crops = 300, 5
    pixels = 3 * SIDE**2
    counts = {
        "train-teacher": (step * data.images * data.epochs, f"{data.epochs} epochs"),
        "distill rded": (forward * data.classes * pool * crops, f"{pool} images a class, {crops} crops each"),
        "distill sre2l": (step * data.distilled * 2000, "2,000 steps"),
        "augment-labels soft": (forward * data.distilled, "1 view"),
        "augment-labels dense": (forward * data.distilled * 25, "25 views"),
        "augment-labels fkd": (forward * data.distilled * VIEWS, f"{VIEWS} views"),
        "evaluate": (step * data.distilled * 300, "1 student, 300 epochs"),
    }
    held = amount(data.images * 100)
    answers = data.distilled * data.classes * 4
    memory = {
        "train-teacher": f"{held} of the index; {amount(3 * weights)} of net, gradient, momentum",
        "distill rded": f"{held}; {amount(pool * crops * pixels * 4)} of one class' crops at most; the set",
        "distill sre2l": f"a batch's graph; the set, {amount(data.distilled * pixels)}",
        "augment-labels soft": f"all answers, {amount(answers)}",
        "augment-labels dense": f"all answers, {amount(25 * answers)}",
        "augment-labels fkd": f"all images as float32, {amount(4 * data.distilled * pixels)}; all answers, "
        f"{amount(VIEWS * answers)}",
        "evaluate": f"all images as float32, {amount(4 * data.distilled * pixels)}; the labels decoded",
    }
    streams = {
        "train-teacher": f"decoded pixels from disk, {amount(data.images * data.epochs * pixels)} in all",
        "distill rded": f"{amount(data.classes * pool * pixels)} of pixels, class by class",
        "distill sre2l": "nothing: batch norms hold what it needs of the data",
        "augment-labels soft": "images as stored, decoded a few at a time",
        "augment-labels dense": "images as stored, decoded a few at a time",
        "augment-labels fkd": "nothing yet",
        "evaluate": f"test pixels, {amount(50_000 * pixels)} for 50,000",
    }
    return [
        (name, what, amount(flops, "FLOP"), hours(flops), memory[name], streams[name])
        for name, (flops, what) in counts.items()
    ]


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """As Markdown."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Print the tables of both data sets."""
    for data in SETS:
        forward = forward_flops(NET, channels=3, size=SIDE, classes=data.classes)
        print(f"## {data.name}\n")
        print(
            f"{data.images:,} training images, {data.classes:,} classes, {SIDE} px, {NET} "
            f"({amount(forward, 'FLOP')} a forward pass), ipc {data.ipc}: {data.distilled:,} distilled images, "
            f"{amount(data.distilled * 3 * SIDE**2)} of pixels before zstd. "
            f"Decoded pixels in the cache: {amount(data.images * 3 * SIDE**2)} at {SIDE} px, "
            f"{amount(data.images * 3 * 64**2)} at 64 px.\n"
        )
        print_table(("stage", "work", "FLOPs", "GPU hours", "memory", "streams"), list(stages(data)))
        print_table(("labels", "a view", "the set"), list(labels(data)))


if __name__ == "__main__":
    main()

"""Write docs/questions.md and its pictures: what our own rows say of questions that the papers leave open.

Run `python docs/questions.py` after adding rows of the tables question-* to docs/results.jsonl; a test compares what it
writes. Numbers in the text come from the results; the words are ours and are to be read again with them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ddlabel.cli._curve import Point, frontier, svg
from ddlabel.cli._svg import COLOURS, PercentAxis, document, text
from ddlabel.tables._results import Record, latest, paired, read_results

HERE = Path(__file__).parent
FILE = HERE / "results.jsonl"
BUDGET = "cpu"
BAR, GAP, LEFT, TOP, HEIGHT = 30, 34, 70, 60, 380
"""Of bars, in pixels: width, space between groups, margins, height of the picture."""
Groups = Mapping[str, Mapping[str, Record]]


class Results:
    """The latest record of every number at one budget."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.numbers = latest(records)

    def __call__(self, row: str, cell: str = "") -> Record:
        return self.numbers[f"question-{row}", cell, BUDGET]

    def accuracy(self, row: str, cell: str = "") -> str:
        """`41.2`, in percent."""
        return f"{self(row, cell)['ours']:.1f}"

    def gain(self, row: str, other: str, cell: str = "", other_cell: str | None = None) -> str:
        """`+1.2 ± 0.3`: the first minus the second, paired by seed, with its standard error."""
        mean, error, _pairs = paired(self(row, cell), self(other, cell if other_cell is None else other_cell))
        return f"{mean:+.1f} ± {error:.1f}"


def bars(title: str, below: str, groups: Groups) -> str:
    """An SVG of bars side by side in groups; thin lines are 95 % intervals over students."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    places = [len(group) * BAR + GAP for group in groups.values()]
    right = LEFT + GAP / 2 + sum(places)
    every = [record for group in groups.values() for record in group.values()]
    axis = PercentAxis(0, max(each["ours"] + (each["interval"] or 0) for each in every), top=TOP, bottom=HEIGHT - 40)
    parts = [text(20, 24, title, font_size="16"), text(20, 42, below, fill="#555555"), *axis.grid(LEFT, right)]
    start = LEFT + GAP / 2
    for (group, own), width in zip(groups.items(), places, strict=True):
        for index, (name, record) in enumerate(own.items()):
            parts += bar(start + index * BAR, axis, COLOURS[names.index(name) % len(COLOURS)], record)
        parts.append(text(start + (width - GAP) / 2, axis.bottom + 18, group, text_anchor="middle"))
        start += width
    parts.append(f'<path d="M{LEFT} {axis.top}V{axis.bottom}H{right:.1f}" fill="none" stroke="#333333"/>')
    for index, name in enumerate(names):
        y = TOP + 20 + 20 * index
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{right + 18:.1f}" y="{y - 9}" width="11" height="11" fill="{colour}"/>')
        parts.append(text(right + 36, y, name))
    return document(round(right + 36 + 6.6 * max(map(len, names)) + 20), HEIGHT, parts)


def bar(x: float, axis: PercentAxis, colour: str, record: Record) -> list[str]:
    """One bar, its interval and its number."""
    ours, reach = record["ours"], record["interval"] or 0
    y, middle, high = axis.y(ours), x + BAR / 2, axis.y(ours + reach)
    return [
        f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{BAR - 4}" height="{axis.bottom - y:.1f}" fill="{colour}"/>',
        f'<path d="M{middle:.1f} {high:.1f}V{axis.y(ours - reach):.1f}" stroke="#333333"/>',
        text(middle, high - 4, f"{ours:.1f}", text_anchor="middle", font_size="10"),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def points(records: Mapping[str, Record]) -> list[Point]:
    """For the picture of accuracy against bytes: names are `images: labels`."""
    return [
        Point(
            images=name.partition(": ")[0],
            labels=name.partition(": ")[2],
            loss="",
            net="",
            stored=record["stored_bytes"],
            mean=record["ours"] / 100,
            ci95=None if record["interval"] is None else record["interval"] / 100,
            n=record["n"],
        )
        for name, record in records.items()
    ]


HEAD = """# Open questions

Written by `python docs/questions.py` from [results.jsonl](results.jsonl); do not edit.
Five questions that the papers leave open, answered by rows of `ddlabel recipes run question-NAME --budget cpu
--use cifar10=folder:DIR --threads 1`: CIFAR-10 (JPEG copy), 10,000 training images, ConvNets of width 32, one set of
images and one teacher (seed 0), three students (seeds 0, 1, 2), one thread of two cores of an x86-64 server, no accelerator.
`ddlabel recipes question-NAME/ROW` prints the commands of a row; [results.md](results.md) has versions, commits and digests.
Differences are paired by seed, with their standard error; bars in pictures are 95 % intervals over students. Wider nets,
longer schedules and other sets of images may answer otherwise.
"""
OPTIMISERS = {"SGD": "sgd", "Adam": "adam", "AdamW": "adamw"}
LOSSES = {"GIFT": "gift", "soft cross-entropy": "softce", "KL": "kl", "KL with T²": "kl_t2"}


def gift(found: Results) -> tuple[str, dict[str, str]]:
    """Optimisers and losses."""
    groups = {
        name: {loss: found(f"gift/cifar10-ipc10-{row}", cell) for loss, cell in LOSSES.items()}
        for name, row in OPTIMISERS.items()
    }
    rows = [
        [
            name,
            *(found.accuracy(f"gift/cifar10-ipc10-{row}", cell) for cell in LOSSES.values()),
            *(found.gain(*[f"gift/cifar10-ipc10-{row}"] * 2, "gift", cell) for cell in ("kl", "kl_t2")),
        ]
        for name, row in OPTIMISERS.items()
    ]
    sgd = "gift/cifar10-ipc10-sgd"
    words = f"""## Does GIFT's gain across optimisers survive when KL gets its T²?

**No.** GIFT is {found.gain(sgd, sgd, "gift", "kl")} points ahead of the divergence at T = 20 under SGD, the gain that its
paper reports in kind. What the divergence lacks there is the factor T² = 400 that keeps its gradient's size: with it, the
same loss is level with GIFT under SGD and at least level under Adam and AdamW, which divide the size of the gradient out
and need no factor. Soft cross-entropy at T = 1 is behind both here; on other images and labels it was ahead of both
([results-labels.md](results-labels.md)).

![accuracy by optimiser and loss](questions-gift.svg)

RDED images, one stored soft label each; GIFT's labels are mixed with the smoothed hard label by its loss; protocol `gift`,
300 epochs; SGD at 0.1, Adam and AdamW at 0.001, rates given, not chosen.

"""
    head = ["optimiser", *LOSSES, "GIFT minus KL", "GIFT minus KL with T²"]
    picture = bars("Test accuracy by optimiser and loss", "RDED images, one soft label each", groups)
    return words + table(head, rows), {"questions-gift.svg": picture}


FORMS = {"noise": "noise", "learned": "learned", "converged": "converged teacher", "strong": "converged, weight 50"}


def dcpi(found: Results) -> tuple[str, dict[str, str]]:
    """Images frozen or moved, labels of several origins."""
    kinds = {"frozen": "herding, as it is", "tuned": "herding, moved by DCPI"}
    groups = {}
    for kind, name in kinds.items():
        row = f"dcpi/cifar10-ipc10-{kind}"
        groups[name] = {"hard labels": found(f"{row}-learned", "hard")}
        groups[name] |= {said: found(f"{row}-{form}", "feature") for form, said in FORMS.items()}
    frozen, tuned = "dcpi/cifar10-ipc10-frozen", "dcpi/cifar10-ipc10-tuned"
    rows = [
        [
            kinds[kind],
            found.accuracy(f"dcpi/cifar10-ipc10-{kind}-learned", "hard"),
            *(
                found.gain(f"dcpi/cifar10-ipc10-{kind}-{form}", f"dcpi/cifar10-ipc10-{kind}-learned", "feature", "hard")
                for form in FORMS
            ),
        ]
        for kind in kinds
    ]
    images = found.gain(f"{tuned}-learned", f"{frozen}-learned", "hard")
    both = found.gain(f"{tuned}-learned", f"{frozen}-learned", "feature", "hard")
    words = f"""## What part of DCPI's gain are labels?

**At the published weight, next to none.** DCPI moves the images while it learns labels. From the coreset with hard labels
to moved images with learned labels it is {both} points; moved images with hard labels alone are {images}. Labels that were
learned gain no more than noise that nobody learned. Yet feature labels can gain: those of a converged teacher at weight
50, a hundred times the published one, are worth more than all else in the table, and learning is not needed for them.

![accuracy by images and labels](questions-dcpi.svg)

Feature labels of the last layer in half precision; `lambda_reg` 0.5 but for the last column; 25 steps of `dc`; protocol
`dc`, 300 epochs. [results-privileged.md](results-privileged.md) has other coresets, matchers, layers and codecs.

"""
    head = ["images", "hard labels", *(f"{said}, gain" for said in FORMS.values())]
    picture = bars("Test accuracy by images and labels", "10 images per class", groups)
    return words + table(head, rows), {"questions-dcpi.svg": picture}


CODECS = ("delta-view", "klt", "q4-shared", "q8", "f32")


def dense(found: Results) -> tuple[str, dict[str, str]]:
    """Codecs against plain images."""
    base = "dense/cifar10-ipc10"
    plain = {f"{ipc} images": found(f"dense/cifar10-ipc{ipc}-plain") for ipc in (10, 11, 13)}
    labelled = {codec: found(f"{base}-{codec}") for codec in CODECS}
    least = min(CODECS, key=lambda codec: labelled[codec]["stored_bytes"])
    rows = [
        [f"{name} a class, hard labels", f"{each['stored_bytes']:,}", f"{each['ours']:.1f}", "", ""]
        for name, each in plain.items()
    ]
    for codec in CODECS:
        other = "dense/cifar10-ipc13-plain" if codec == "f32" else "dense/cifar10-ipc11-plain"
        gains = [
            found.gain(f"{base}-{codec}", other),
            found.gain(f"{base}-{codec}", f"{base}-f32") if codec != "f32" else "",
        ]
        rows.append(
            [
                f"10 images a class, dense labels in `{codec}`",
                f"{labelled[codec]['stored_bytes']:,}",
                f"{labelled[codec]['ours']:.1f}",
                *gains,
            ]
        )
    words = f"""## Do dense labels beat plain images of the same bytes, and with which codec?

**Yes, with every codec.** The plain images are the same method's with one more image per class (baseline++), or three for
labels in float32: they cost as much or more in every row. The gain is {found.gain(f"{base}-{least}", "dense/cifar10-ipc11-plain")} points
with the cheapest codec, `{least}`, whose labels add {labelled[least]["stored_bytes"] - plain["10 images"]["stored_bytes"]:,} bytes
to the ten images, a third of one more image per class. `q4-shared` and `q8` are within their noise of float32, which spends
seven times the bytes of the former for nothing; `delta-view` and `klt` lose {found.gain(f"{base}-f32", f"{base}-klt")} points.

![accuracy of plain images and of dense labels](questions-dense.svg)

`dm` images, 400 steps; LADD's 25 views and loss; protocol `dm`, 600 epochs.

"""
    head = ["images and labels", "bytes", "accuracy %", "minus plain images of as many bytes", "minus float32"]
    picture = bars(
        "Test accuracy at about equal bytes",
        "left: plain images a class; right: ten, with dense labels",
        {"hard labels": plain, "dense labels": labelled},
    )
    return words + table(head, rows), {"questions-dense.svg": picture}


def random(found: Results) -> tuple[str, dict[str, str]]:
    """Random images with and without dense labels."""
    sizes = (1, 3, 10, 30)
    groups = {
        f"{ipc} a class": {
            "hard labels": found(f"random/cifar10-ipc{ipc}-hard"),
            "dense labels": found(f"random/cifar10-ipc{ipc}-dense"),
        }
        for ipc in sizes
    }
    rows = [
        [
            str(ipc),
            found.accuracy(f"random/cifar10-ipc{ipc}-hard"),
            found.accuracy(f"random/cifar10-ipc{ipc}-dense"),
            found.gain(f"random/cifar10-ipc{ipc}-dense", f"random/cifar10-ipc{ipc}-hard"),
        ]
        for ipc in sizes
    ]
    distilled = found.gain("dense/cifar10-ipc10-q4-shared", "random/cifar10-ipc10-dense")
    plain = found.gain("dense/cifar10-ipc10-plain", "random/cifar10-ipc10-hard")
    words = f"""## How far do random images with dense labels get?

**Farther than distilled images with hard labels.** Ten random images per class with dense labels reach
{found.accuracy("random/cifar10-ipc10-dense")} %, `dm` images with hard labels {found.accuracy("dense/cifar10-ipc10-plain")} %.
Distilling is worth {plain} points over random images under hard labels and {distilled} under dense ones: labels do most of its work.

![accuracy of random images](questions-random.svg)

Dense labels of 25 views in `q4-shared`; protocol `dm`, 600 epochs, 300 at 30 images.

"""
    picture = bars("Test accuracy of random real images", "by images per class", groups)
    return words + table(["images per class", "hard labels %", "dense labels %", "gain"], rows), {
        "questions-random.svg": picture
    }


NAMES = {
    "10kb-dm": "16 px, 1: dm",
    "10kb-dense": "16 px, 1: dm, dense",
    "10kb-feature": "16 px, 1: dm, feature-q3",
    "10kb-datm": "16 px, 1: datm",
    "30kb-dm": "16 px, 3: dm",
    "30kb-dense": "16 px, 3: dm, dense",
    "30kb-feature": "16 px, 3: dm, feature-q3",
    "30kb-datm": "16 px, 3: datm",
    "100kb-dm": "32 px, 3: dm",
    "100kb-dense": "32 px, 3: dm, dense",
    "100kb-feature": "32 px, 3: dm, feature-q3",
    "100kb-datm": "32 px, 3: datm",
    "100kb-small-feature": "16 px, 12: dm, feature-q3",
    "100kb-small-datm": "16 px, 12: datm",
    "300kb-dm": "32 px, 9: dm",
    "300kb-dense": "32 px, 9: dm, dense",
    "300kb-feature": "32 px, 9: dm, feature-q3",
    "300kb-datm": "32 px, 9: datm",
    "300kb-small-feature": "16 px, 36: dm, feature-q3",
    "300kb-small-datm": "16 px, 38: datm",
}
"""Rows and what they are: side of the images, how many a class, method and labels."""


def best(found: Results) -> tuple[str, dict[str, str]]:
    """Accuracy against bytes."""
    records = {}
    for row, name in NAMES.items():
        cell = "feature" if "feature" in row else ""
        if (f"question-bytes/cifar10-{row}", cell, BUDGET) in found.numbers:
            records[name] = found(f"bytes/cifar10-{row}", cell)
    drawn = points(records)
    line = {point.name for point in frontier(drawn)}
    rows = [
        [
            name,
            f"{each['stored_bytes']:,}",
            f"{each['ours']:.1f}",
            f"{each['interval']:.1f}",
            "yes" if name in line else "",
        ]
        for name, each in sorted(records.items(), key=lambda item: item[1]["stored_bytes"])
    ]
    tops = []
    for budget in (10, 30, 100, 300):
        fitting = {name: each for name, each in records.items() if each["stored_bytes"] <= 1000 * budget}
        name = max(fitting, key=lambda key: fitting[key]["ours"])
        tops.append([f"{budget} kB", f"**{fitting[name]['ours']:.1f}**", name, f"{fitting[name]['stored_bytes']:,}"])
    words = f"""## What is the best accuracy at 10, 30, 100 and 300 kB?

{table(["budget", "accuracy %", "images: method, labels", "bytes"], tops)}
Rows are *side, images per class: method, labels*. **Up to 100 kB bytes are better spent on more images of 16 pixels than on
fewer of 32**, although the students of small images see test images of 16 pixels too: at 100 kB `datm` gains
{found.gain("bytes/cifar10-100kb-small-datm", "bytes/cifar10-100kb-datm")} points by it. At 300 kB the two sides come near each other.
Trajectory matching (`datm`, images rounded to bytes, learned soft labels, three short experts) is ahead at 16 pixels;
at 32 feature labels of 3 bits a number (`feature-q3`) on `dm` images are. At every size they gain more than dense labels.

![accuracy against bytes](questions-bytes.svg)

The best of each budget was chosen among these rows by the test accuracy that is printed: read it as the upper edge of what
was tried, not as a measurement of its own.

"""
    return words + table(["images: method, labels", "bytes", "accuracy %", "± 95 %", "best for its bytes"], rows), {
        "questions-bytes.svg": svg(drawn)
    }


def pages(records: Sequence[Record]) -> dict[str, str]:
    """The page and its pictures by file name."""
    found = Results(records)
    parts, pictures = [HEAD], {}
    for question in (gift, dcpi, dense, random, best):
        text_, drawn = question(found)
        parts.append(text_)
        pictures |= drawn
    return {"questions.md": "\n".join(parts), **pictures}


if __name__ == "__main__":
    for file, content in pages(read_results(FILE)).items():
        (HERE / file).write_text(content, encoding="utf-8")
        print(f"wrote docs/{file}", file=sys.stderr)

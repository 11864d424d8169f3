"""Write a small bundle with labels of every kind in format 1: `python tests/archives/write_v1_labels.py FOLDER`.

Made by the commands a user types, from a data set that this file makes. Archives are written once, by the release that
introduces a format, and never again: see `v1/README.md`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

COMMANDS = (
    "train-teacher --data npz:data.npz --arch convnet-d1-w4 --epochs 2 --set batch=8 --set lr=0.1 -o teacher.ddset",
    "distill --data npz:data.npz --method random --ipc 2 -o base.ddset",
    "augment-labels base.ddset --teacher teacher.ddset --kind soft --codec f16 -o soft.ddset",
    "augment-labels soft.ddset --teacher teacher.ddset --kind dense --grid 3 --ratio 3/4 --codec q4-shared "
    "-o dense.ddset",
    "refine dense.ddset --labels dense --method gift --codec q8 -o gift.ddset",
    "augment-labels gift.ddset --teacher teacher.ddset --kind fkd --codec prune --set views=6 --set keep=0.5 "
    "--set values=q4 --set replay=explicit -o labels.ddset",
)


def main(folder: Path) -> None:
    """Make the data, then run the commands in the folder."""
    source = np.random.Generator(np.random.PCG64(7))
    arrays = {}
    for split, count in (("train", 10), ("test", 4)):
        arrays[f"{split}_images"] = source.integers(0, 256, (3 * count, 8, 8, 3)).astype(np.uint8)
        arrays[f"{split}_labels"] = np.repeat(np.arange(3), count)
    np.savez(folder / "data.npz", **arrays)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    for command in COMMANDS:
        words = [sys.executable, "-m", "ddlabel", *command.split(), "--threads", "1", "--device", "cpu", "--force"]
        subprocess.run(words, cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

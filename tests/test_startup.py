"""What starting costs: modules that must not be imported, and processor time, in fresh processes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "numpy", "safetensors", "rich", "PIL")


def modules_after(code: str) -> set[str]:
    """Names of the top-level modules loaded by some code in a new process."""
    script = f"import sys, io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n    {code}\n"
    script += "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["distill", "--help"], ["methods"], ["--version"]],
    ids=["help", "help of a command", "methods", "version"],
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    """Help and lists cost typer and no more."""
    assert not modules_after(f"from ddlabel.cli.app import main; main({arguments!r})") & set(HEAVY)


def test_inspect_imports_neither_torch_nor_numpy(files) -> None:
    """Auditing a bundle works from its header and manifest."""
    loaded = modules_after(f"from ddlabel.cli.app import main; main(['inspect', {str(files.dense)!r}])")

    assert not loaded & {"torch", "numpy", "safetensors"}


def test_the_probe_can_fail() -> None:
    """A heavy import would be seen."""
    assert "numpy" in modules_after("import numpy")


def cpu_seconds(*arguments: str) -> float:
    """Least processor time of several runs of the command."""
    costs = []
    for _run in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "ddlabel", *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(costs)


def test_help_takes_a_quarter_of_a_second_of_processor_time_at_most() -> None:
    """The promise of the README."""
    assert cpu_seconds("--help") <= 0.25


def test_inspect_takes_as_long_for_five_gigabytes_as_for_a_small_bundle(tmp_path: Path) -> None:
    """Header and manifest only: a sparse teacher of 5 GB costs at most 0.3 s of processor time."""
    from ddlabel.bundle import Bundle, NewSection, StageRecord
    from ddlabel.header import parse_header
    from ddlabel.tensors import RawTensor

    record = StageRecord("train-teacher", {}, 0, [], {}, 0.0, 0.0, {})
    parameters = {"arch": "mlp", "member": 0, "epoch": 1, "accuracy": {}, "seed": 0}
    section = NewSection(
        "teacher.0.1", "teacher", {"teacher.0.1.w": RawTensor("F32", (4,), bytes(16))}, parameters=parameters
    )
    small = tmp_path / "small.ddset"
    Bundle.create("teacher", None, record, [section]).save(small)
    large = tmp_path / "large.ddset"
    _grow(small, large, 5 * 2**30, parse_header)

    assert cpu_seconds("inspect", str(large)) <= 0.3


def _grow(small: Path, large: Path, size: int, parse_header) -> None:
    """A bundle whose last tensor is a hole of zeros, written without its bytes."""
    from ddlabel.bundle import Bundle

    bundle = Bundle.open(small)
    document = {key: value for key, value in bundle.manifest.document.items() if key != "storage"}
    name = "teacher.0.1.w"
    tensor = {**document["sections"][0]["tensors"][name], "shape": [size // 4], "bytes": size}
    document["sections"] = [{**document["sections"][0], "tensors": {name: tensor}}]

    class Hole:
        dtype, shape, nbytes, sha256 = "F32", (size // 4,), size, tensor["sha256"]

    grown = Bundle._assemble(document, {name: Hole()}, (), "large")  # type: ignore[dict-item]
    header, manifest, entries = grown._layout()
    with large.open("wb") as file:
        file.write(header + manifest)
        file.truncate(len(header) + entries[-1].end)

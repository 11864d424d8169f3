"""What starting costs: modules that must not be imported, and processor time, in fresh processes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import types
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


def test_completing_a_word_and_printing_a_configuration_import_nothing_heavy() -> None:
    """Names of methods and recipes, without what they are."""
    words = (
        "{'_DDLABEL_COMPLETE': 'complete_bash', 'COMP_WORDS': 'ddlabel\\nevaluate\\n--recipe\\nm', 'COMP_CWORD': '3'}"
    )
    dump = "['config', 'dump', 'evaluate', '--recipe', 'mtt/cifar10-ipc10']"
    loaded = modules_after(
        f"import os; from ddlabel.cli.app import main; main({dump}); os.environ.update({words}); main([])"
    )

    assert "tomllib" in loaded
    assert not loaded & set(HEAVY)


def test_inspect_imports_neither_torch_nor_numpy(run_cli, files, tmp_path: Path) -> None:
    """Auditing a bundle works from its header and manifest, of feature labels too."""
    feature = tmp_path / "f.ddset"
    assert (
        0 == run_cli("augment-labels", files.base, "--teacher", files.teacher, "--kind", "feature", "-o", feature).code
    )
    loaded = modules_after(
        f"from ddlabel.cli.app import main; main(['inspect', {str(files.dense)!r}, {str(feature)!r}])"
    )

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
    """Header and manifest only: a teacher of 5 GB costs at most 0.3 s of processor time."""
    large = tmp_path / "large.ddset"
    _write_sparse(large, 5 * 2**30)

    assert large.stat().st_size > 5 * 2**30
    assert cpu_seconds("inspect", str(large)) <= 0.3


def _write_sparse(path: Path, size: int) -> None:
    """A teacher bundle whose one tensor is a hole in the file, laid out without its bytes."""
    from ddlabel.bundle import Bundle, NewSection, StageRecord
    from ddlabel.tensors import RawTensor
    from ddlabel.writer import lay_out

    record = StageRecord("train-teacher", {}, 0, [], {}, 0.0, 0.0, {})
    parameters = {"arch": "mlp", "member": 0, "epoch": 1, "accuracy": {}, "seed": 0}
    name = "teacher.0.1.w"
    section = NewSection("teacher.0.1", "teacher", {name: RawTensor("F32", (4,), bytes(16))}, parameters=parameters)
    document = json.loads(Bundle.create("teacher", None, record, [section]).manifest.to_json())
    tensor = document["sections"][0]["tensors"][name]
    tensor |= {"shape": [size // 4], "bytes": size}
    hole = types.SimpleNamespace(dtype="F32", shape=(size // 4,), nbytes=size, sha256=tensor["sha256"])
    layout = lay_out(document, {name: hole}, "large")
    with path.open("wb") as file:
        file.write(layout.head)
        file.truncate(layout.document["storage"]["total"])

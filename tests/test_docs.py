"""Documentation that cannot rot: generated pages are fresh, commands documented, printed numbers those of the code."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
import torch

from ddlabel import _plugins
from ddlabel.cli.app import COMMANDS
from ddlabel.cli.demo import PIPELINE
from ddlabel.cli.methods import ROOMS
from ddlabel.nets._net import on_meta
from ddlabel.storage import equal_ipc

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def generator():
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "methods.md", "recipes.md", "manifest.schema.json"])
def test_generated_pages_are_fresh(name: str) -> None:
    """Run `python docs/generate.py` when this fails, and read the diff."""
    assert generator().pages()[name] == (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_every_command_is_in_the_reference(command) -> None:
    """One heading each."""
    assert f"## ddlabel {command.name}\n" in (ROOT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize(
    ("room", "name"), [(room, name) for room in ROOMS for name in _plugins.names(room)], ids=lambda value: value
)
def test_every_plugin_says_in_one_line_what_it_is(room: str, name: str) -> None:
    """The line that `ddlabel methods` prints."""
    line = _plugins.summary(room, name)

    assert 20 < len(line) <= 120
    assert line.endswith(".")


def page(name: str) -> str:
    """A page of the guide."""
    return (ROOT / "docs" / name).read_text()


def table_rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so, without marks of code."""
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def test_blocks_of_nets_are_as_printed() -> None:
    """Shapes of labels by net and size, first to last."""
    for arch, pixels, blocks in table_rows(page("privileged.md"), "| net | pixels | blocks |"):
        size = int(pixels)
        images = torch.empty(1, 3, size, size, device="meta")
        outputs = on_meta(arch, channels=3, size=size, classes=10).features_by_layer(images)
        shapes = [" x ".join(map(str, output.shape[1:])) for output in outputs]
        printed = re.split(r", | to ", blocks)

        assert printed == ([shapes[0], shapes[-1]] if " to " in blocks else shapes), arch


def test_bytes_of_privileged_labels_are_as_printed() -> None:
    """By the parts that codecs write, and by the rule of equal bytes."""
    text = page("privileged.md")
    head = "| label | numbers | `f32`"
    names = [cell.strip(" `") for cell in text[text.index(head) :].splitlines()[0].strip("|").split("|")[2:]]
    sizes = {}
    for label, numbers, *cells in table_rows(text, head):
        values = torch.linspace(0, 1, int(numbers)).reshape(1, 1, -1)
        parts = [_plugins.load("codecs", name, "CODEC")().encode(values).values() for name in names]
        found = [sum(part.numel() * part.element_size() for part in encoded) for encoded in parts]
        assert found == [int(cell) for cell in cells], label
        sizes.setdefault(re.split(r"\W", label)[0], dict(zip(names, found, strict=True)))

    for row, shrink, grow in table_rows(text, "| image, label | shrink | grow |"):
        image, kind, codec = re.fullmatch(r"(\w+), (\w+) (\w+)", row).groups()
        pixels, label = {"float32": 12288, "uint8": 3072}[image], sizes[kind][codec]
        found = [equal_ipc(ipc, pixels, label) for ipc in (1, 10, 50)]
        assert found == list(zip(map(int, shrink.split(",")), map(int, grow.split(",")), strict=True)), row


def test_python_blocks_of_the_guide_run_as_printed(
    run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """One after the other, in one interpreter; only epochs are cut, and the data are the tiny ones."""
    monkeypatch.chdir(tmp_path)
    for file in (files.soft, files.dense):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    labels = ("--teacher", files.teacher, "--kind")
    assert 0 == run_cli("augment-labels", files.base, *labels, "fkd", "--set", "views=3", "-o", "fkd.ddset").code
    assert 0 == run_cli("augment-labels", files.soft, *labels, "feature", "-o", "feature.ddset").code
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", page("python.md"), re.DOTALL)
    for block in blocks:
        shorter = block.replace("range(300)", "range(2)").replace("range(recipe.rounds)", "range(2)")
        exec(compile(shorter.replace("digits", files.data), "python.md", "exec"), names)
    printed = capsys.readouterr().out

    assert len(blocks) > 6
    assert re.search(r"^\d+\.\d%$", printed, re.MULTILINE)
    assert "kl kl adamw" in printed
    assert "LoadedBundle(<distill>: images 4 x 3 x 8 x 8, 4 classes, hard labels)" in printed


def test_the_pipeline_of_the_readme_has_every_stage() -> None:
    """In order; tests/docs runs it."""
    stages = ["train-teacher", "distill", "augment-labels", "refine", "evaluate", "inspect"]

    assert stages == re.findall(r"^ddlabel (\S+)", README, re.MULTILINE)[: len(stages)]


def test_the_demo_shows_every_stage() -> None:
    """Six subcommands, of which inspect is replaced by the demo's own table."""
    assert {"train-teacher", "distill", "augment-labels", "refine", "evaluate"} == {
        line.split()[0] for line in PIPELINE
    }


def test_the_readme_has_its_two_one_line_commands() -> None:
    """The second one is what CI runs."""
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]

    assert 2 == len(lines)
    assert lines[0].endswith("ddlabel demo")
    assert lines[1].endswith("pytest -n 2")


@pytest.mark.slow
def test_the_estimate_is_what_its_script_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Run `PYTHONPATH=. python docs/estimate.py` when this fails, and put its tables into the page."""
    runpy.run_path(str(ROOT / "docs" / "estimate.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line]

    assert 25 < len(lines)
    assert [] == [line for line in lines if line not in page("imagenet.md")]

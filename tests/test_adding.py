"""`docs/adding.md` keeps its promise: one new file per plugin, found and used from the command line."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

PAGE = (Path(__file__).parent.parent / "docs" / "adding.md").read_text()
FILES = dict(re.findall(r"`(ddlabel/[a-z/]+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
"""Whole files that the page prints, by path."""

KIND = '''"""Both sides of an image (a test)."""
from dataclasses import dataclass
import torch
from ddlabel.options import opt
from ddlabel.labels._kind import Kind

@dataclass(frozen=True, kw_only=True)
class Sides(Kind):
    """The image and its mirror image, a few times over."""
    times: int = opt(1, "how often", min=1)
    @property
    def view_count(self): return 2 * self.times
    def view(self, images, image, view):
        chosen = images[image]
        return torch.where((view % 2 == 1)[:, None, None, None], chosen.flip(3), chosen)
    def parameters(self, size): return {"times": self.times, "size": size}

KIND = Sides
'''


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a module into a room, as if its file lay in the package."""

    def add(room: str, name: str, source: str) -> None:
        folder = tmp_path / room
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        package = importlib.import_module(f"ddlabel.{room}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])

    return add


def test_the_loss_of_the_page_works_as_printed(plug, run_cli, files) -> None:
    """The page's own code, its own command line."""
    plug("losses", "huber", FILES["ddlabel/losses/huber.py"])
    scored = run_cli(
        "evaluate", files.soft, "--data", files.data, "--arch", "mlp", "--seeds", "1", "--epochs", "2",
        "--loss", "huber", "--set", "delta=0.5", "--json",
    )  # fmt: skip
    listed = run_cli("methods", "huber")

    assert 0 == scored.code, scored.err
    assert '"delta": 0.5' in scored.out
    assert "--set delta=float  where the loss turns linear, in logits [> 0] (default 1.0)" in listed.out


def test_a_new_method_codec_net_and_data_set_are_one_file_each(plug, run_cli, tmp_path: Path) -> None:
    """Those of the page, as printed, in one pipeline, without touching anything else."""
    for room, name in (("distill", "first"), ("codecs", "sixteenths"), ("nets", "linear"), ("data", "patterns")):
        plug(room, name, FILES[f"ddlabel/{room}/{name}.py"])
    teacher, base, soft, scored = (tmp_path / f"{name}.ddset" for name in ("teacher", "base", "soft", "scored"))
    common = ("--data", "patterns", "--arch", "linear")
    outcomes = [
        run_cli("train-teacher", *common, "--epochs", "3", "-o", teacher),
        run_cli("distill", *common, "--method", "first", "--ipc", "2", "--set", "skip=1", "-o", base),
        run_cli("augment-labels", base, "--teacher", teacher, "--codec", "sixteenths", "--self-test", "0", "-o", soft),
        run_cli("evaluate", soft, *common, "--seeds", "1", "--epochs", "3", "-o", scored),
        run_cli("inspect", scored),
    ]
    bundle = Bundle.open(scored)

    assert [0] * 5 == [outcome.code for outcome in outcomes], [outcome.err for outcome in outcomes]
    assert {"codec.sixteenths"} <= set(bundle.manifest.requires)
    assert "linear" == bundle.manifest.evaluations[0]["results"][0]["arch"]


def test_a_new_label_kind_is_one_file(plug, run_cli, files, tmp_path: Path) -> None:
    """Labelled, read back, trained on beside random images; its options are checked like all others."""
    plug("labels", "sides", KIND)
    path = tmp_path / "sides.ddset"
    label = ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "sides")
    outcomes = [
        run_cli(*label, "--set", "times=2", "-o", path),
        run_cli(
            "evaluate", path, "--data", files.data, "--arch", "mlp", "--seeds", "1", "--epochs", "2", "--labels",
            "sides", "--loss", "softce", "--baselines", "--teacher", files.teacher,
        ),
    ]  # fmt: skip

    assert [0] * 2 == [outcome.code for outcome in outcomes], [outcome.err for outcome in outcomes]
    assert 4 == Bundle.open(path).section("labels.sides").views
    assert 2 == run_cli(*label, "--set", "times=0", "-o", tmp_path / "none.ddset").code


def test_an_import_error_inside_a_plugin_is_not_hidden(plug, run_cli, files) -> None:
    """A broken plugin is a bug with its own message, never an unknown name."""
    plug("losses", "broken", '"""Broken."""\nimport no_such_module_at_all\n')
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        run_cli("evaluate", files.soft, "--data", files.data, "--loss", "broken")

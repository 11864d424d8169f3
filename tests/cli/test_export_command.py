"""`ddlabel export`: formats by name, refusals, streams, the sidecar, and what pictures cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddlabel.bundle import Bundle

SIDECAR = "ddset-export.json"


def test_the_end_of_the_name_says_the_format(run_cli, files, tmp_path: Path) -> None:
    """One sidecar beside each file, which has its digest; the same document with --json."""
    for name, form in (("a.npz", "npz"), ("b.tar", "webdataset"), ("c.parquet", "parquet"), ("d.PT", "dc")):
        outcome = run_cli("export", files.soft, "-o", tmp_path / name, "--json")
        said = json.loads((tmp_path / f"{name}.{SIDECAR}").read_text())
        shown = json.loads(outcome.out)
        assert 0 == outcome.code, outcome.err
        assert form == said["format"] == shown["format"]
        assert {name} == set(said["files"])
        assert (tmp_path / name).stat().st_size == said["files"][name]["bytes"] == shown["files"]["bytes"]
        assert Bundle.open(files.soft).content == said["source"]["content"]
        assert "ddlabel.export" == shown["schema"] == said["schema"]
        assert str(tmp_path) not in json.dumps(said)


def test_formats_that_do_not_follow_from_the_name_must_be_given(run_cli, files, tmp_path: Path) -> None:
    """Folders are of two formats; all problems come at once."""
    vague = run_cli("export", files.base, "-o", tmp_path / "x")
    wrong = run_cli("export", files.base, "-o", tmp_path / "x", "--format", "fodler", "--seeds", "0")

    assert 2 == vague.code == wrong.code
    assert "expected .pt (dc), .npz (npz)" in vague.err
    assert "unknown format 'fodler'; did you mean 'folder'?" in wrong.err
    assert "seeds" in wrong.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--format", "folder", "-o", "-"], "is a folder, which cannot go to stdout"),
        (["-o", "x.npz", "--measure", "--data", "digits"], "holds no pictures"),
        (["-o", "x.tar", "--measure"], "option 'data' is missing"),
        (["--format", "npz", "-o", "-", "--json"], "both write to stdout"),
        (["--format", "npz"], "option 'output' is missing"),
        (["-o", "no/x.npz"], "does not exist"),
        (["-o", "x.csv"], "has no scores"),
    ],
)
def test_what_cannot_work_is_refused(
    run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], problem: str
) -> None:
    """With exit 2, and nothing written."""
    monkeypatch.chdir(tmp_path)
    outcome = run_cli("export", files.base, *words)

    assert 2 == outcome.code
    assert problem in outcome.err + outcome.out
    assert not list(tmp_path.iterdir())


def test_teachers_are_no_sets_of_images(run_cli, files, tmp_path: Path) -> None:
    """Exit 3, as for every stage."""
    outcome = run_cli("export", files.teacher, "-o", tmp_path / "x.npz")

    assert 3 == outcome.code
    assert "kind 'teacher', expected a distilled bundle" in outcome.err
    assert not list(tmp_path.iterdir())


def test_existing_files_are_kept_unless_forced(run_cli, files, tmp_path: Path) -> None:
    """The file and its sidecar, each."""
    path = tmp_path / "x.npz"
    sidecar = tmp_path / f"x.npz.{SIDECAR}"
    sidecar.write_text("mine")
    first = run_cli("export", files.base, "-o", path)
    assert 2 == first.code
    assert not path.exists()
    assert "mine" == sidecar.read_text()
    assert 0 == run_cli("export", files.base, "-o", path, "--force").code
    assert 2 == run_cli("export", files.soft, "-o", path).code
    assert "labels_soft" not in np.load(path)
    assert 0 == run_cli("export", files.soft, "-o", path, "--force").code
    assert "labels_soft" in np.load(path)
    assert 2 == run_cli("export", path, "-o", path, "--force").code


def test_force_replaces_an_export_and_no_other_folder(run_cli, files, tmp_path: Path) -> None:
    """Not one without a sidecar, not one with a foreign sidecar, not one that somebody put a file into."""
    ours, other, json_only = tmp_path / "ours", tmp_path / "other", tmp_path / "json"
    for folder in (other, json_only):
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")
    (json_only / SIDECAR).write_text('{"schema": "mine"}')
    command = ("export", files.base, "--format", "folder", "--force", "-o")
    for folder in (other, json_only):
        outcome = run_cli(*command, folder)
        assert 2 == outcome.code
        assert "has no ddset-export.json of an export" in outcome.err
        assert "mine" == (folder / "thesis.tex").read_text()
    assert [0, 0] == [run_cli(*command, ours).code for _time in range(2)]
    (ours / "00000_0" / "mine.png").write_text("mine")
    touched = run_cli(*command, ours)

    assert 2 == touched.code
    assert "holds '00000_0/mine.png', which is not of its export" in touched.err
    assert (ours / "00000_0" / "mine.png").exists()


def test_force_keeps_files_that_were_changed_after_the_export(run_cli, files, tmp_path: Path) -> None:
    """Another size, other bytes of the same size, a link in place of a file."""
    out = tmp_path / "x"
    command = ("export", files.base, "--format", "folder", "--force", "-o", out)
    assert 0 == run_cli(*command).code
    picture = out / "00000_0" / "000000.png"
    data = picture.read_bytes()
    for changed in (data + b"more", data[:-1] + b"x"):
        picture.write_bytes(changed)
        outcome = run_cli(*command)
        assert 2 == outcome.code
        assert "holds '00000_0/000000.png', which was changed after the export" in outcome.err
        assert changed == picture.read_bytes()
    (tmp_path / "kept.png").write_bytes(data)
    picture.unlink()
    picture.symlink_to(tmp_path / "kept.png")
    assert 2 == run_cli(*command).code
    picture.unlink()
    assert 0 == run_cli(*command).code
    assert data == picture.read_bytes()


def test_a_file_goes_to_stdout_as_it_would_to_the_disk(
    files, run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, and no sidecar anywhere."""
    from ddlabel.cli.app import main

    for form, name in (("webdataset", "x.tar"), ("npz", "x.npz"), ("parquet", "x.parquet")):
        assert 0 == run_cli("export", files.soft, "-o", tmp_path / name).code
        with (tmp_path / "piped").open("w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert 0 == main(["export", str(files.soft), "--format", form, "-o", "-"])
        assert (tmp_path / name).read_bytes() == (tmp_path / "piped").read_bytes()
        assert f"wrote -: {form}" in capsys.readouterr().err
    assert not list(tmp_path.glob("piped.*"))
    assert 0 == run_cli("export", files.soft, "--format", "npz", "-o", os.devnull).code


def test_help_and_refusals_of_names_do_not_import_torch(tmp_path: Path) -> None:
    """Formats are told apart by modules that cost nothing."""
    code = (
        "import sys, contextlib, io\n"
        "from ddlabel.cli.app import main\n"
        "with contextlib.redirect_stderr(io.StringIO()):\n"
        f"    assert main(['export', 'x.ddset', '-o', {str(tmp_path / 'x')!r}]) == 2\n"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


def test_measured_pictures_are_compared_seed_by_seed(run_cli, files, tmp_path: Path) -> None:
    """Whitened images: the bundle, its pictures as they are, and whitened again; the file says it too."""
    base, out = tmp_path / "z.ddset", tmp_path / "x"
    assert (
        0
        == run_cli(
            "distill", "--data", files.data, "--space", "zca", "--ipc", "1", "-o", base, "--method", "random"
        ).code
    )
    measure = ("--measure", "--data", files.data, "--arch", "mlp", "--epochs", "3", "--seeds", "2")
    outcome = run_cli("export", base, "--format", "folder", "-o", out, *measure)
    said = json.loads((out / SIDECAR).read_text())["measured"]
    rows = said["rows"]

    assert 0 == outcome.code, outcome.err
    assert ["bundle", "pictures", "pictures, whitened again"] == [row["images"] for row in rows]
    assert {"hard"} == {row["labels"] for row in rows}
    assert "minus_bundle" not in rows[0]
    for row in rows[1:]:
        ours, first = row["accuracy"]["values"], rows[0]["accuracy"]["values"]
        mean = sum(a - b for a, b in zip(ours, first, strict=True)) / 2
        assert mean == pytest.approx(row["minus_bundle"]["mean"])
    assert 3 == len(outcome.out.splitlines())
    assert "npz" == said["data"]
    assert os.path.basename(files.data) not in json.dumps(said)


def test_exact_pictures_are_measured_for_the_labels_they_leave_out(run_cli, files, tmp_path: Path) -> None:
    """Against the richest labels of the bundle; without any there is nothing to measure."""
    measure = (
        "--measure",
        "--data",
        files.data,
        "--arch",
        "mlp",
        "--epochs",
        "2",
        "--seeds",
        "1",
        "--format",
        "folder",
    )
    rich = run_cli("export", files.soft, "-o", tmp_path / "a", *measure, "--json")
    plain = run_cli("export", files.base, "-o", tmp_path / "b", *measure, "--json")
    rows = json.loads(rich.out)["measured"]["rows"]

    assert [("bundle", "soft"), ("pictures", "hard")] == [(row["images"], row["labels"]) for row in rows]
    assert json.loads(plain.out)["measured"] is None
    assert "there is nothing to measure" in plain.err


GUIDE = (Path(__file__).parent.parent.parent / "docs" / "exporting.md").read_text()


def test_the_guide_names_every_format_and_every_array(run_cli, files, tmp_path: Path) -> None:
    """Its table of formats, and of keys of .npz files, against a whitened bundle with dense labels."""
    from ddlabel._plugins import names

    formats, keys = GUIDE.index("| `--format` |"), GUIDE.index("| key | value |")
    listed = [line.split("`")[1] for line in GUIDE[formats:].split("\n\n")[0].splitlines()[2:]]
    known = {
        key.strip("` ") for line in GUIDE[keys:].split("\n\n")[0].splitlines() for key in line.split("|")[1].split(",")
    }
    assert 0 == run_cli("export", files.dense, "-o", tmp_path / "x.npz").code
    written = {key.replace("dense", "<kind>") for key in np.load(tmp_path / "x.npz").files}

    assert sorted(listed) == list(names("exporters"))
    assert written <= known
    assert {"images_float", "zca_matrix", "student_lr", "labels_<kind>_view_ids"} <= known


def test_an_interrupt_leaves_nothing(run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the folder nor a temporary one."""
    import signal

    from ddlabel.exporters import _pictures

    drawn = _pictures.png

    def png(pixels):
        signal.raise_signal(signal.SIGTERM)
        return drawn(pixels)

    monkeypatch.setattr(_pictures, "png", png)
    outcome = run_cli("export", files.base, "--format", "folder", "-o", tmp_path / "x")

    assert 143 == outcome.code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-o", "x.npz", "--data", "digits", "--seed", "3"], "option '--seed' has no effect without --measure"),
        (["-o", "x.tar", "--seeds", "3"], "option '--seeds' has no effect without --measure"),
        (["-o", "x.tar", "--arch", "mlp", "--epochs", "4"], "option '--epochs' has no effect without --measure"),
        (["-o", "x.tar", "--device", "cpu"], "option '--device' has no effect without --measure"),
        (["-o", "x.npz", "--view", "clip"], "format 'npz' holds no pictures, option '--view' has no effect"),
        (["--format", "npz", "-o", "/dev/stdout", "--json"], "'--output /dev/stdout' and '--json' both write to"),
        (["--format", "folder", "-o", "/dev/stdout"], "is a folder, which cannot go to stdout"),
    ],
)
def test_options_without_effect_are_refused(
    run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], problem: str
) -> None:
    """Typed ones, before anything is written."""
    monkeypatch.chdir(tmp_path)
    outcome = run_cli("export", files.base, *words)

    assert 2 == outcome.code
    assert problem in outcome.err + outcome.out
    assert not list(tmp_path.iterdir())


def test_results_and_bundles_do_not_share_stdout(run_cli, files, tmp_path: Path, monkeypatch) -> None:
    """By any of its names, for every command that writes a file."""
    monkeypatch.chdir(tmp_path)
    link = tmp_path / "out"
    link.symlink_to("/dev/stdout")
    commands = [
        ("refine", files.dense, "--method", "gift"),
        ("report", files.base),
        ("export", files.base, "--format", "npz"),
        ("import", tmp_path / "none.npz"),
    ]
    for command in commands:
        for name in ("/dev/stdout", "/dev/fd/1", link):
            outcome = run_cli(*command, "-o", name, "--json")
            assert 2 == outcome.code
            assert f"'--output {name}' and '--json' both write to stdout" in outcome.err


@pytest.mark.slow
def test_stdout_in_a_file_has_no_sidecar(files, tmp_path: Path) -> None:
    """The name /dev/stdout is then a file like any other, in a folder that is nobody's."""
    with (tmp_path / "out.npz").open("wb") as stream:
        code = "import sys; from ddlabel.cli.app import main; sys.exit(main(sys.argv[1:]))"
        command = ["export", str(files.base), "--format", "npz", "-o", "/dev/stdout"]
        done = subprocess.run([sys.executable, "-c", code, *command], stdout=stream, stderr=subprocess.PIPE, text=True)

    assert (0, ["out.npz"]) == (done.returncode, [path.name for path in tmp_path.iterdir()]), done.stderr
    assert not Path(f"/dev/stdout.{SIDECAR}").exists()


def test_options_of_exports_and_imports_come_from_a_file(run_cli, files, tmp_path: Path) -> None:
    """What `config dump` prints, with settings that only `--measure` would read; what is typed wins."""
    config, out = tmp_path / "x.toml", tmp_path / "out"
    dumped = run_cli("config", "dump", "export", "--format", "npz", "--labels", "soft", "--seeds", "4")
    config.write_text(dumped.out.replace("[export]", "seed = 3\n[export]"))
    by_file = run_cli("export", files.soft, "--config", config, "-o", tmp_path / "a.npz")
    typed = run_cli("export", files.soft, "--config", config, "--labels", "hard", "-o", tmp_path / "b.npz")
    both = run_cli("export", files.soft, "--config", config, "--seeds", "4", "-o", tmp_path / "c.npz")
    over = run_cli("export", files.soft, "--config", config, "--force", "-o", config)

    assert (0, 0, 2, 2) == (by_file.code, typed.code, both.code, over.code), (dumped.err, by_file.err, typed.err)
    assert "labels_soft" in np.load(tmp_path / "a.npz")
    assert "labels_soft" not in np.load(tmp_path / "b.npz")
    assert "option '--seeds' has no effect without --measure" in both.err
    assert "is also an input" in over.err
    text = '[import]\nformat = "npz"\nclasses = ["a", "b", "c", "d"]\naccept_guess = false\nset = {layout = "nhwc"}\n'
    (tmp_path / "i.toml").write_text(text)
    imported = run_cli("import", tmp_path / "a.npz", "--config", tmp_path / "i.toml", "-o", out)
    shown = run_cli("config", "dump", "import", "--config", tmp_path / "i.toml", "--mean", "0.5", "--std", "0.25")

    assert 0 == imported.code, imported.err
    assert ("a", "b", "c", "d") == tuple(Bundle.open(out).manifest.data["classes"])
    assert 'classes = ["a", "b", "c", "d"]' in shown.out
    assert "mean = [0.5]" in shown.out
    assert '[import.set]\nlayout = "nhwc"' in shown.out

"""Every command of README.md and of the guide is run, or stands here with the reason why it is not."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
from pathlib import Path

import pytest

from ddlabel.cli import demo
from ddlabel.cli._config_file import stage_commands
from ddlabel.cli._options import split_unknown
from ddlabel.cli.app import COMMANDS
from ddlabel.cli.config import dumped_stage

from .guide import GENERATED, ROOT, Shell, blocks, command_lines, ddlabel_words, pages, play, shorter

INSTALLS = "a test installs nothing"
PROCESSES = "several processes: tests/teams runs such"
FOREIGN = "needs files of other tools: tests/importers makes such"
PUBLISHED = "published settings take hours: tests/test_recipes_dcpi.py runs them smaller"
LARGE = "needs ImageNet: tests/data/test_published.py makes a small one"

NOT_RUN = {
    "README.md": {
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/ddlabel demo": INSTALLS,
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/ruff check . && "
        ".venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/python -m pytest -n 2": INSTALLS,
    },
    "docs/importing.md": {
        "ddlabel import mtt-cifar10-ipc10 --data folder:cifar10 --space zca -o mtt.ddset": FOREIGN,
        "ddlabel inspect mtt.ddset --grid mtt.png": FOREIGN,
        "ddlabel evaluate mtt.ddset --data folder:cifar10 --arch convnet-d3 --seeds 5 -o mtt-scored.ddset": FOREIGN,
        "ddlabel import res_DC_CIFAR10_ConvNet_10ipc.pt --data folder:cifar10 --space normalised "
        "--constants cifar10 -o dc.ddset": FOREIGN,
        "ddlabel import res_DSA_CIFAR10_ConvNet_50ipc.pt --data folder:cifar10 --space normalised "
        "--constants cifar10 --set experiment=0 -o dsa.ddset": FOREIGN,
        "ddlabel import pad-mnist-ipc10 --data mnist:data --space zca --set iteration=best -o pad.ddset": FOREIGN,
        "ddlabel import pad-mnist-ipc10/images_zca_10.pt --name mnist --classes 0,1,2,3,4,5,6,7,8,9 --mirror no "
        "--constants mnist -o pad.ddset": FOREIGN,
        "ddlabel import cifar10/conv3in_factor2_mix_ipc10/data.pt --data folder:cifar10 --constants cifar10 "
        "--set factor=2 -o idc.ddset": FOREIGN,
        "ddlabel import rded-imagenette --data folder:imagenette --space imagenet -o rded.ddset": FOREIGN,
        "ddlabel import sre2l-images FKD_cutmix_fp16 --data folder:imagenet --space imagenet --set views=100 "
        "-o sre2l.ddset": FOREIGN,
        "ddlabel import mine.npz --name pets --classes names.txt --mirror yes --values units --mean 0.48,0.45,0.4 "
        "--std 0.23,0.22,0.22 -o mine.ddset": FOREIGN,
        "ddlabel import train.parquet --name pets --mirror yes --space imagenet --domain logit --set soft=logits "
        "-o pets.ddset": FOREIGN,
    },
    "docs/large-data.md": {
        "export DDLABEL_CACHE_DIR=/big/disk/cache": LARGE,
        "ddlabel train-teacher --data folder:/data/imagenet --size 64 --epochs 50 -o teacher.ddset": LARGE,
        "ddlabel distill --data folder:/data/imagenet --size 64 --teacher teacher.ddset --method herding --ipc 10 "
        "-o base.ddset": LARGE,
        "ddlabel distill --data imagenet-woof:/data/imagenet --size 128 --method random --ipc 10 -o woof.ddset": LARGE,
    },
    "docs/privileged.md": {
        "ddlabel train-teacher --data DATA --recipe dcpi/cifar10-ipc10-herding -o teacher.ddset": PUBLISHED,
        "ddlabel distill --data DATA --recipe dcpi/cifar10-ipc10-herding --teacher teacher.ddset "
        "-o herding.ddset": PUBLISHED,
        "ddlabel refine herding.ddset --data DATA --recipe dcpi/cifar10-ipc10-herding -o learned.ddset": PUBLISHED,
        "ddlabel evaluate learned.ddset --data DATA --recipe dcpi/cifar10-ipc10-herding --equal-bytes "
        "-o scored.ddset": PUBLISHED,
    },
    "docs/resume.md": {
        "ddlabel distill --data digits --method dm --ipc 10 --set steps=20000 -o base.ddset --resume": "continues what "
        "was stopped, and the first line was not: tests/cli/test_resume_command.py stops such",
    },
    "docs/scale.md": {
        "ddlabel train-teacher --data cifar10 --experts 100 --epochs 50 --processes 4 -o experts.ddset": PROCESSES,
        "ddlabel distill --data cifar10 --method dm --ipc 10 --processes 4 -o base.ddset": PROCESSES,
        "ddlabel augment-labels base.ddset --teacher experts.ddset --kind dense --processes 4 "
        "-o dense.ddset": PROCESSES,
        "ddlabel evaluate dense.ddset --data cifar10 --seeds 8 --processes auto -o scored.ddset": PROCESSES,
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m ddlabel "
        "evaluate dense.ddset --data cifar10 --seeds 8 --threads 1 -o scored.ddset": PROCESSES,
    },
    "docs/sweeps.md": {
        'make -f docs/sweep.mk -j2 OUT=sweep DATA=digits METHODS="random dm" IPCS="1 5" SEEDS="0 1"': "tests/"
        "test_sweep.py runs it smaller",
    },
}
"""Lines that are not run, by page, with the reason; of these options and names are checked."""

EDITS = {
    "docs/configuring.md": {"epochs = 20": "epochs = 3", "keep = [5, 20]": "keep = [3]", "steps = 200": "steps = 2"},
    "docs/tutorial.md": {"range(300)": "range(2)"},
    "docs/python.md": {"range(300)": "range(2)", "range(recipe.rounds)": "range(2)"},
}
"""Texts that stand for less work, by page; numbers of command lines are cut by `guide.shorter`."""

QUICK = ("README.md", "docs/tutorial.md")
"""Pages that are run by default: what everybody reads first."""

TESTED_ELSEWHERE = {"docs/adding.md": "tests/test_adding.py"}
"""Pages without command lines, whose blocks another test runs."""

BY_NAME = {command.name: command for command in COMMANDS}
RUN = [name for name in pages() if command_lines((ROOT / name).read_text())]


@pytest.fixture(scope="module")
def settings(run_cli) -> set[str]:
    """Names that --set takes: of all plugins, and of the two stages that take some of their own."""
    listed = runpy.run_path(str(ROOT / "docs" / "generate.py"))["methods_page"]()
    own = "".join(run_cli("methods", name).out for name in ("train-teacher", "evaluate"))
    return set(re.findall(r"--set (\w+)=", listed + own))


def read(name: str) -> str:
    """A page."""
    return (ROOT / name).read_text()


def quick(line: str) -> str:
    """A command of the demo with less work; its table needs a standard deviation, so two students."""
    return re.sub(r"--seeds \d+", "--seeds 2", shlex.join(shorter(line.split())))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RUN]
)
def test_every_command_runs_as_printed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, in order, in one empty folder; only what takes time is cut."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "PIPELINE", tuple(map(quick, demo.PIPELINE)))
    text, names = read(name), {}
    for printed, fewer in EDITS.get(name, {}).items():
        assert printed in text, printed
        text = text.replace(printed, fewer)
    shell = Shell(NOT_RUN.get(name, {}))
    play(text, shell, lambda source: exec(compile(source, name, "exec"), names))

    assert shell.skipped == list(NOT_RUN.get(name, {}))


@pytest.mark.parametrize("name", RUN)
def test_every_option_of_a_page_exists(name: str, settings: set[str]) -> None:
    """Those of commands, and names that --set takes: of every line, without running it."""
    for line in command_lines(read(name)):
        for words in ddlabel_words(line):
            command, *rest = dumped_stage(words, COMMANDS) or words
            _, problems = split_unknown(BY_NAME[command], rest)
            assert not problems, line
            given = {word.split("=")[0] for before, word in itertools.pairwise(rest) if before == "--set"}
            assert given <= settings, line


@pytest.mark.parametrize("name", sorted(NOT_RUN))
def test_what_is_not_run_would_be_understood(name: str, run_cli) -> None:
    """All that a stage refuses without reading a file; a line that has changed is run again, or listed again."""
    assert set(NOT_RUN[name]) <= set(command_lines(read(name)))
    for line in NOT_RUN[name]:
        for command, *words in ddlabel_words(line):
            if command in stage_commands(COMMANDS):
                outcome = run_cli("config", "dump", command, *words)
                assert 0 == outcome.code, (line, outcome.err)


def test_every_block_is_run_somewhere() -> None:
    """Blocks of a language stand in pages that are run, or in one that another test runs."""
    with_blocks = {name for name in pages() if any(block.language for block in blocks(read(name)))}

    assert with_blocks <= {*RUN, *TESTED_ELSEWHERE}
    assert {block.language for name in RUN for block in blocks(read(name))} <= {"", "sh", "python", "toml"}


def anchors(text: str) -> set[str]:
    """Names of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*pages(), *(f"docs/{name}" for name in GENERATED)])
def test_links_lead_somewhere(name: str) -> None:
    """Files, and headings in them."""
    for target, anchor in re.findall(
        r"\]\(([^)#\s]*)#?([^)\s]*)\)", re.sub(r"```.*?```", "", read(name), flags=re.DOTALL)
    ):
        if target.startswith("http"):
            continue
        file = (ROOT / name).parent / target if target else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), f"{target}#{anchor}"


def test_every_page_is_in_the_contents() -> None:
    """docs/index.md leads to all of them."""
    targets = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+)", read("docs/index.md"))}

    assert {ROOT / name for name in pages()} - {ROOT / "docs" / "index.md"} <= targets

"""`--config FILE.toml` and `config dump`: what wins over what, what is refused; a dump is its own fixed point."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddlabel.bundle import Bundle
from ddlabel.cli import _config_file, _stage, config

GUIDE = Path(__file__).parents[2] / "docs" / "configuring.md"


@pytest.fixture
def write(tmp_path: Path):
    """Write a file of options."""

    def write(text: str, name: str = "file.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def effective(run_cli):
    """What a stage would run with."""

    def effective(*words: object) -> dict:
        outcome = run_cli("config", "dump", *words, "--json")
        assert 0 == outcome.code, outcome.err
        document = json.loads(outcome.out)
        return {**document["options"], "set": document["set"]}

    return effective


def test_a_file_makes_the_bundle_that_typed_options_make(run_cli, files, tmp_path: Path, write) -> None:
    """To the same content, which holds the options: a distilled set, and labels by a teacher of the file."""
    config = write(f"""
        seed = 3
        [distill]
        data = {json.dumps(files.data)}
        method = "random"
        ipc = 2
        pixels = "float32"
        [augment-labels]
        kind = "dense"
        grid = 2
        ratio = "1/2"
        teacher = [{json.dumps(str(files.teacher))}]
        """)
    typed = ("--data", files.data, "--method", "random", "--ipc", "2", "--pixels", "float32", "--seed", "3")
    outcomes = [
        run_cli("distill", "--config", config, "-o", tmp_path / "file.ddset"),
        run_cli("distill", *typed, "-o", tmp_path / "typed.ddset"),
        run_cli("augment-labels", tmp_path / "file.ddset", "--config", config, "-o", tmp_path / "labels.ddset"),
    ]
    contents = [Bundle.open(tmp_path / f"{name}.ddset").content for name in ("file", "typed")]

    assert [0, 0, 0] == [outcome.code for outcome in outcomes], outcomes
    assert contents[0] == contents[1]
    assert 4 == Bundle.open(tmp_path / "labels.ddset").section("labels.dense").views


def test_what_is_typed_wins_over_the_file_the_recipe_and_the_defaults(effective, write) -> None:
    """In this order, option by option, and so for --set."""
    recipe = "mtt/cifar10-ipc10"
    words = ("distill", "--data", "digits")
    default, published = effective(*words), effective(*words, "--recipe", recipe)
    name = "lr_images"
    config = write(
        f'[distill]\nrecipe = "{recipe}"\nipc = 7\nvalidation = 0.25\nset = {{ {name} = 0.125, microbatch = 3 }}'
    )
    from_file = effective(*words, "--config", config)
    typed = effective(*words, "--config", config, "--ipc", "8", "--set", f"{name}=0.5", "--method", published["method"])

    assert "dm" == default["method"] != published["method"] == from_file["method"]
    assert (7, 0.25, "0.125", "3") == (*(from_file[key] for key in ("ipc", "validation")), *pick(from_file, name))
    assert (8, 0.25, "0.5", "3") == (*(typed[key] for key in ("ipc", "validation")), *pick(typed, name))
    assert published["set"].keys() | {"microbatch"} == typed["set"].keys()
    assert default == effective(*words, "--config", config, "--recipe", "auto", "--ipc", "10", "--set", "steps=1") | {
        "validation": default["validation"],
        "set": default["set"],
    }


def pick(options: dict, name: str) -> tuple[str, str]:
    return options["set"][name], options["set"]["microbatch"]


def test_flags_of_a_file_are_switched_off_by_their_opposite(effective, run_cli, write) -> None:
    """`--no-NAME`, and the other way round for names that begin so."""
    config = write("[evaluate]\nbaselines = true\nequal_bytes = true\nno_fsync = true")
    found = effective("evaluate", "--config", config, "--no-baselines", "--fsync")
    both = run_cli("config", "dump", "evaluate", "--baselines", "--no-baselines")

    assert (False, True, False) == tuple(found[name] for name in ("baselines", "equal_bytes", "no_fsync"))
    assert (2, "error: '--baselines' and '--no-baselines' are both given\n") == (both.code, both.err)


def test_files_that_are_typed_replace_those_of_the_file(effective, write) -> None:
    """As one would expect of a teacher."""
    config = write('[refine]\nteacher = ["a.ddset", "b.ddset"]')

    assert ["a.ddset", "b.ddset"] == effective("refine", "--config", config)["teacher"]
    assert ["c.ddset"] == effective("refine", "--config", config, "--teacher", "c.ddset")["teacher"]


def test_everything_that_is_wrong_is_said_at_once(run_cli, monkeypatch: pytest.MonkeyPatch, write) -> None:
    """Of the file, of tables of other stages, and of the command line; no stage starts."""
    monkeypatch.setattr(_stage, "_compute", None)
    config = write("""
        seed = "x"
        ipc = 3
        [distil]
        ipc = 3
        [distill]
        ipcc = 3
        ipc = "ten"
        method = 4
        validation = true
        self-test = 2
        self_test = 2
        json = true
        arch = ""
        [distill.set]
        steps = 2020-01-01
        [evaluate]
        loss = "ce"
        incremental = [5, "x"]
        baselines = 1
        teacher = 3
        set = 5
        arch = ["mlp,lenet"]
        """)
    outcome = run_cli("distill", "--config", config, "--space", "lab", "-o", config.with_name("x.ddset"))
    said = outcome.err.replace(f"{config}: ", "").splitlines()

    assert 2 == outcome.code
    expected = (
        "'ipc' stands above the tables, expected it in one of [train-teacher], [distill]",
        "unknown table [distil]; did you mean 'distill'?",
        "unknown option 'ipcc' in [distill]; did you mean 'ipc'?",
        "option 'ipc' in [distill] is 'ten', expected a whole number",
        "option 'method' in [distill] is 4, expected a text in quotes",
        "option 'validation' in [distill] is true, expected a number",
        "option 'self_test' is in [distill] twice, with '-' and with '_'",
        "unknown option 'json' in [distill]; it is for the command line alone",
        "option 'steps' in [distill.set] is 2020-01-01, expected a number, a text",
        "option 'loss' in [evaluate] is 'ce', expected a list of texts",
        "option 'incremental' in [evaluate] is [5, 'x'], expected a list of whole numbers",
        "option 'baselines' in [evaluate] is 1, expected true or false",
        "option 'teacher' in [evaluate] is 3, expected a list of files in quotes",
        "option 'set' in [evaluate] is 5, expected a table [evaluate.set]",
        "option 'arch' in [evaluate] is ['mlp,lenet'], expected a list of texts without commas",
        "option 'seed' in [train-teacher] is 'x', expected a whole number",
        "option 'data' is missing",
        "option 'space' is 'lab', expected one of normalised, imagenet, zca",
    )
    assert len(expected) == len(said), outcome.err
    for message in expected:
        assert any(line.startswith(f"error: {message}") for line in said), (message, outcome.err)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[distill\nipc = 3", "is not TOML: expected ']' at the end of a table declaration (at line 1"),
        (b"[distill]\nipc = \xff", "is not TOML: 'utf-8' codec"),
        (b"a = " + b"[" * 5000, "is n"),
        (b"#" * (2**20 + 1), "has more than 1048576 bytes"),
        (None, "cannot be read (No such file or directory)"),
    ],
    ids=["no TOML", "no UTF-8", "nested", "large", "missing"],
)
def test_files_that_are_no_tables_are_refused(run_cli, tmp_path: Path, content: bytes | None, message: str) -> None:
    """Exit 2, one line, no traceback."""
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    outcome = run_cli("config", "dump", "evaluate", "--config", path)

    assert 2 == outcome.code
    assert f"error: config '{path}' {message}" in outcome.err


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("[distill]\nipc = 0", ["option 'ipc' in [distill] is 0, expected a number >= 1 and <= 1000000"]),
        ("[distill]\nvalidation = nan", ["option 'validation' in [distill] is nan, expected a finite number"]),
        ('[distill]\nspace = "lab"', ["option 'space' in [distill] is 'lab', expected one of normalised"]),
        ("[train-teacher]\nkeep = [-1]", ["option 'keep' in [train-teacher] is [-1], expected a number >= "]),
        ('[distill]\nmethod = "dmm"', ["[distill]: unknown method 'dmm'; did you mean 'dm'?"]),
        ('[distill]\nrecipe = "dmm"', ["[distill]: unknown recipe 'dmm'"]),
        (
            '[distill]\nmethod = "dm"\nset = { bogus = 1, steps = -1 }',
            ["[distill]: unknown option 'bogus'", "[distill]: option 'steps' is -1, expected a number >= "],
        ),
        ('[distill]\nrecipe = "mtt/cifar10-ipc10"\nset = { bogus = 1 }', ["[distill]: unknown option 'bogus'"]),
        ('[augment-labels]\nkind = "dense"\nset = { gird = 3 }', ["unknown option 'gird'; did you mean 'grid'?"]),
        ('[augment_labels]\nkind = "dense"\ncodec = "q9"', ["[augment-labels]: unknown codec 'q9'"]),
        ("[train-teacher]\nset = { lr = -1, lrr = 1 }", ["unknown option 'lrr'", "option 'lr' is -1.0, expected"]),
        ("[evaluate]\nset = { lr = -1, temprature = 1 }", ["did you mean 'temperature'?", "option 'lr' is -1.0, ex"]),
        ('[evaluate]\nloss = ["kl"]\nset = { temperature = -1 }', ["option 'temperature' is -1.0, expected"]),
        ('[evaluate]\nloss = ["lk"]\nprotocol = "x"', ["unknown protocol 'x'", "unknown loss 'lk'"]),
        ('[refine]\nteacher = "t.ddset"', ["option 'teacher' in [refine] is 't.ddset', expected a list of files"]),
        ('[augment-labels]\nteacher = "t"', ["option 'teacher' in [augment-labels] is 't', expected a list of files"]),
        ('[export]\nformat = "npy"', ["[export]: unknown format 'npy'"]),
        ("[import]\nset = { bogus = 1 }", ["[import]: unknown option 'bogus'"]),
        (
            "[train_teacher]\nepochs = 3\n[train-teacher]\nepochs = 4",
            ["[train-teacher] is there twice, as 'train_teacher' and 'train-teacher'"],
        ),
    ],
    ids=lambda value: value.replace("\n", " ") if isinstance(value, str) else None,
)  # fmt: skip
def test_tables_of_other_stages_are_checked_as_theirs(run_cli, write, content: str, messages: list[str]) -> None:
    """Values, plugins, and `set` where it is known what takes it: exit 2, one line each, with the file."""
    config = write(content)
    outcome = run_cli("config", "dump", "refine", "--config", config)
    said = outcome.err.splitlines()

    assert (2, len(messages)) == (outcome.code, len(said)), outcome.err
    for message, line in zip(messages, said, strict=True):
        assert line.startswith(f"error: {config}: ")
        assert message in line


@pytest.mark.parametrize(
    "content",
    [
        "[distill]\nset = { syn_steps = 3 }",
        '[augment-labels]\nkind = "dense"\nset = { keep = 1, bits = 4 }',
        "[refine]\nset = { matched = 1 }",
        "[evaluate]\nset = { lambda_reg = 0.5, future = true, temperature = 2, as = 'spatial' }",
        "[train-teacher]\nscores = './later.npz'\nset = { lr = 0.5, score_nets = 2 }",
        "[refine]\nmethod = 'recode'\nset = { bits = 4 }",
    ],
    ids=lambda value: value.replace("\n", " "),
)
def test_what_may_yet_be_typed_is_not_refused(run_cli, write, content: str) -> None:
    """A method, a codec or labels that the table does not name; a file that an earlier stage writes."""
    stage = "evaluate" if content.startswith("[refine]") else "refine"
    outcome = run_cli("config", "dump", stage, "--config", write(content))

    assert (0, "") == (outcome.code, outcome.err)


def test_a_mark_at_the_beginning_of_the_file_is_not_of_its_text(effective, write) -> None:
    """As editors of Windows write it."""
    assert 3 == effective("distill", "--config", write("\ufeff[distill]\nipc = 3"))["ipc"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill", "--set", "bogus=1"], "unknown option 'bogus'"),
        (["distill", "--method", "dmm"], "unknown method 'dmm'; did you mean 'dm'?"),
        (["distill", "--recipe", "mtt/cifar10-ipc10", "--set", "steps=-3"], "option 'steps' is -3, expected"),
        (["distill", "--unroll", "full", "--set", "steps=3"], "method 'dm' has no option 'unroll'"),
        (["train-teacher", "--set", "bogus=1"], "unknown option 'bogus'"),
        (["augment-labels", "--kind", "dense", "--set", "bogus=1"], "unknown option 'bogus'"),
        (["augment-labels", "--kind", "soft", "--grid", "3", "--set", "x=1"], "--grid is for --kind dense"),
        (["refine", "--set", "gamma=7"], "option 'gamma' is 7.0, expected a number"),
        (["refine", "--method", "dcpi", "--set", "bogus=1"], "unknown option 'bogus'"),
        (["evaluate", "--set", "lr=-1"], "option 'lr' is -1.0, expected a number > 0"),
        (["evaluate", "--loss", "ce", "--labels", "hard", "--set", "temperature=2"], "unknown option 'temperature'"),
        (["evaluate", "--epochs", "3", "--set", "epochs=2"], "'epochs' is given by --epochs and by --set"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_dump_refuses_what_the_stage_would_refuse(run_cli, words: list[str], message: str) -> None:
    """By the options alone."""
    outcome = run_cli("config", "dump", *words)

    assert (2, "") == (outcome.code, outcome.out)
    assert message in outcome.err


def test_the_file_is_not_overwritten(run_cli, write) -> None:
    """Fault 92 for the file of options, even with --force."""
    config = write("[refine]\nmethod = 'gift'")
    outcome = run_cli("refine", "a.ddset", "--config", config, "-o", config, "--force")

    assert 2 == outcome.code
    assert "is also an input" in outcome.err
    assert config.read_text().startswith("[refine]")


@pytest.mark.parametrize(
    "words",
    [
        ["train-teacher", "--keep", "1,5", "--data", "digits", "--set", "lr=1e-2"],
        ["distill", "--recipe", "mtt/cifar10-ipc10", "--arch", "auto", "--set", "steps=10"],
        ["distill", "--method", "glad", "--set", 'generator=a "b" \x7f é.py:A'],
        ["distill", "--data", "folder:a b", "-o", "x.ddset", "--force", "--ipc", "1_0"],
        ["augment-labels", "in", "--teacher", "a", "--teacher", "b", "--kind", "fkd", "--set", "stream=0123456789ab"],
        ["refine", "--method", "gift", "--set", "gamma=0.30000000000000004"],
        ["evaluate", "--recipe", "mtt/cifar10-ipc10", "--loss", "kl,ce", "--baselines", "--incremental", "5,10"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_dump_given_back_is_the_same_dump(run_cli, write, words: list[str]) -> None:
    """Whatever was typed is in it."""
    first = run_cli("config", "dump", *words)
    again = run_cli("config", "dump", words[0], "--config", write(first.out))

    assert (0, 0) == (first.code, again.code), first.err + again.err
    assert first.out == again.out


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.one_of(st.integers(), st.floats(), st.booleans()))
def test_texts_and_numbers_come_back_from_a_dump(text: str, number: float) -> None:
    """Whatever is in them: a --set of a dump is the text that was typed."""
    for typed in (text, str(number), str(number).lower()):
        assert typed == _config_file._text(tomllib.loads(f"x = {config._setting(typed)}")["x"])
    assert {text: 1} == tomllib.loads(f"{config._key(text)} = 1")


def test_a_dump_says_what_is_missing_and_what_is_impossible(run_cli) -> None:
    """Required options are a comment; bounds are checked."""
    fine, wrong = run_cli("config", "dump", "distill"), run_cli("config", "dump", "distill", "--ipc", "0")

    assert "# data = ...  # required: data set, NAME or NAME:PATH" in fine.out
    assert '# arch = "auto"' in fine.out
    assert (2, "error: option 'ipc' is 0, expected a number >= 1 and <= 1000000\n") == (wrong.code, wrong.err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dump", "distil"], "unknown stage 'distil'; did you mean 'distill'?"),
        (["dump"], "no stage given, expected 'config dump STAGE"),
        (["show"], "unknown command 'config show', expected 'config dump STAGE"),
    ],
    ids=["stage", "none", "verb"],
)
def test_config_says_how_it_is_typed(run_cli, words: list[str], message: str) -> None:
    """Exit 2."""
    outcome = run_cli("config", *words)

    assert 2 == outcome.code
    assert message in outcome.err


def test_threads_come_from_the_environment_last(effective, run_cli, monkeypatch, write) -> None:
    """Beneath the file and what is typed; no number is refused."""
    monkeypatch.setenv("DDLABEL_THREADS", "2")
    config = write("threads = 3")

    assert 2 == effective("distill")["threads"]
    assert 3 == effective("distill", "--config", config)["threads"]
    assert 4 == effective("distill", "--config", config, "--threads", "4")["threads"]
    monkeypatch.setenv("DDLABEL_THREADS", "two")
    assert "error: DDLABEL_THREADS is 'two', expected a whole number" in run_cli("config", "dump", "refine").err
    assert "DDLABEL_THREADS" in run_cli("--help").out


def test_the_file_of_the_guide_is_one(effective, write) -> None:
    """For every stage in it."""
    (text,) = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    found = {
        stage: effective(stage, "--config", write(text)) for stage in re.findall(r"^\[([\w-]+)\]", text, re.MULTILINE)
    }

    assert ["train-teacher", "distill", "augment-labels", "evaluate"] == list(found)
    assert [1] * 4 == [options["seed"] for options in found.values()]
    assert {"steps": "200", "lr_images": "0.5"} == found["distill"]["set"]
    assert [5, 20] == found["train-teacher"]["keep"]

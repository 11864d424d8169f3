"""The HTML page: well-formed, closed to the network, everything of a bundle escaped, all parts for each kind."""

from __future__ import annotations

import copy
import html.parser
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.cli._page import EMPTY, capital, table, tag
from ddlabel.cli._page_parts import page
from ddlabel.cli._page_style import STYLE
from ddlabel.manifest import Manifest
from ddlabel.scores import summarise
from ddlabel.tensors import RawTensor

ARCHIVES = sorted((Path(__file__).parent.parent / "archives").rglob("*.ddset"))
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\u202e&amp;"


class Page(html.parser.HTMLParser):
    """What a browser would see: elements, texts; refuses tags that do not close in order."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _value in attrs]
        assert len(set(names)) == len(names), f"{tag} says {names} twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self.open[-1:], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, name: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.elements if tag == name)

    def headings(self, level: int) -> int:
        return sum(1 for _each in self.all(f"h{level}"))


def read(made: bytes | Path) -> Page:
    """A page, checked for everything that holds of each: closed, unique ids, links that arrive, no way out."""
    markup = made.decode() if isinstance(made, bytes) else made.read_text()
    found = Page(markup)
    ids = [attributes["id"] for _tag, attributes in found.elements if "id" in attributes]
    links = [attributes["href"] for _tag, attributes in found.elements if "href" in attributes]

    assert found.open == []
    assert markup.startswith("<!doctype html>\n")
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link} <= set(ids)
    assert all(link.startswith("#") for link in links if link)
    assert {name for name, _attributes in found.elements}.isdisjoint(
        {"script", "iframe", "object", "embed", "link", "base", "form", "input", "video", "audio", "foreignobject"}
    )
    for _name, attributes in found.elements:
        assert not any(key.startswith("on") or key in {"style", "srcset", "action"} for key in attributes)
        assert str(attributes.get("src", "data:image/png;base64,")).startswith("data:image/png;base64,")
    assert not re.search(r"@import|url\((?!#)|https?:", STYLE)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", markup)
    return found


def results(*, more: dict[str, Any] | None = None, net: str = "mlp") -> list[dict[str, Any]]:
    """Rows of a bundle and of random images, as `evaluate` records them."""

    def row(images: str, values: list[float], stored: int, **rest: Any) -> dict[str, Any]:
        return {
            "arch": net,
            "images": images,
            "labels": "dense",
            "loss": {"name": "ladd", "options": {}},
            "recipe": {"optimizer": "sgd", "lr": 0.01, "epochs": 3},
            "accuracy": summarise(values),
            "stored_bytes": stored,
            **rest,
            **(more or {}),
        }

    difference = {"mean": 0.1, "standard_error": 0.02, "n": 2}
    return [row("bundle", [0.61, 0.63], 900), row("random", [0.5, 0.54], 700, bundle_minus_this=difference)]


def evaluation(**more: Any) -> dict[str, Any]:
    """An evaluation that says all a plain one says."""
    return {
        "protocol": "dm",
        "results": results(),
        "labels": "dense",
        "domain": "logit",
        "refined": {"method": "gift"},
        "codec": {"name": "q8", "parameters": {}},
        "seeds": [0, 1],
        "seed": 0,
        "statistic": "test accuracy of the last epoch",
        "test": {"name": "tiny", "images": 24},
        "same_source": True,
        "assumption_compliant": True,
        **more,
    }


def incremental() -> dict[str, Any]:
    """One of class-incremental steps."""
    points = [{"classes": 2 + step, "images": [6], "accuracy": summarise([0.8, 0.9])} for step in range(2)]
    said = {"steps": 2, "leaks_future_classes": True, "curve": points}
    return evaluation(results=results(more={"incremental": said}), incremental={"steps": [2]}, protocol="continual")


def ranked() -> dict[str, Any]:
    """One with DD-Ranking's scores and calibration, the temperature of a student missing."""
    score = summarise([0.1, 0.2])
    entry = {"arch": "mlp", "hlr": score, "ior": score, "lrs": score, "ars": None}
    entry |= {"rates": {"any": {"lr": 0.05}}, "options": {"real_epochs": 7}}
    numbers = {name: {"mean": 0.25} for name in ("ece", "nll", "ece_scaled", "nll_scaled")}
    calibrated = results(more={"calibration": {**numbers, "temperature": {"mean": None}}})
    return evaluation(results=calibrated, ranking=[entry], protocol="ddranking")


def live() -> dict[str, Any]:
    """One of two nets with a live teacher."""
    online = {"checkpoints": [{"teacher": "ab" * 32, "section": "teacher.0.4"}]}
    rows = [row | {"labels": "online"} for net in ("mlp", "lenet") for row in results(net=net)]
    summary = [
        {"images": "bundle", "labels": "online", "loss": {"name": "kl"}, "optimizer": "sgd", "lr": 0.01}
        | {"nets": ["mlp", "lenet"], "mean": 0.62, "average_std": 0.014, "std_over_nets": 0.0}
    ]
    return evaluation(results=rows, assumption_compliant=False, online=online, summary=summary, labels="online")


def with_scores(path: Path, *evaluations: dict[str, Any]) -> Bundle:
    """A bundle with more scores than its file has."""
    bundle = Bundle.open(path)
    record = StageRecord("evaluate", {"protocol": "dm"}, 0, [], {}, 0.0, 0.0, {})
    for each in evaluations:
        bundle = bundle.with_evaluation(record, each)
    return bundle


@pytest.fixture(scope="module")
def made(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole pipeline, made by the command."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    bundles = (files.teacher, files.base, files.soft, files.dense, files.gift)
    outcome = run_cli("report", *bundles, "-o", path, "--title", "All <of> them", "--no-fsync")
    assert outcome.code == 0, outcome.err
    return path


def test_the_page_of_a_pipeline(files, made: Path) -> None:
    """A title, an overview row and a part per bundle, pictures, fidelity, bytes, and stages that link inputs."""
    found = read(made)
    ids = [attributes.get("id") for attributes in found.all("section")]

    assert [["overview"], ["lineage"], ["b1", "b2", "b3", "b4", "b5"]] == [
        [each for each in ids if each in wanted]
        for wanted in (("overview",), ("lineage", "bytes"), tuple(f"b{number}" for number in range(9)))
    ]
    assert "All <of> them" in found.text
    for words in ("Label fidelity", "KL, T 20", "Checkpoints", "gave base.ddset", "refine gift", "not scored"):
        assert words in found.text
    assert "holds teacher weights" in found.text
    alts = [attributes["alt"] for attributes in found.all("img")]
    assert 4 * 12 == len(alts)
    assert "distilled image 3 of class 3" in alts
    assert all(name in found.text for name in ("teacher.ddset", "base.ddset", "gift.ddset"))
    assert str(files.folder) not in made.read_text()


def test_the_same_bundles_give_the_same_bytes_and_stdout_takes_them(run_cli, files, made: Path, tmp_path: Path) -> None:
    """Nothing of clock, machine or process enters."""
    bundles = (files.teacher, files.base, files.soft, files.dense, files.gift)
    again = tmp_path / "again.html"
    code = "import sys; from ddlabel.cli.app import main; sys.exit(main())"
    command = ["report", *map(str, bundles), "--title", "All <of> them", "-o"]
    assert run_cli(*command, again, "--no-fsync").code == 0
    done = subprocess.run([sys.executable, "-c", code, *command, "-"], capture_output=True, check=True)

    assert made.read_bytes() == again.read_bytes() == done.stdout
    assert b"" == done.stderr


def test_the_policy_forbids_scripts_and_network_and_allows_the_one_style(made: Path) -> None:
    """By its digest: another style would not be applied either."""
    import base64
    import hashlib

    found = read(made)
    policy = next(each for each in found.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", made.read_text(), re.S)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()

    assert policy["content"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_tables_and_pictures_can_be_read_aloud(made: Path) -> None:
    """Landmarks, a language, captions, heads with scopes, names of pictures."""
    found = read(made)
    tags = [name for name, _attributes in found.elements]

    assert {"header", "nav", "main", "footer"} <= set(tags)
    assert 1 == found.headings(1) == tags.count("main")
    assert tags.count("table") == tags.count("caption") > 5
    assert all(each.get("scope") in {"row", "col"} for each in found.all("th"))
    assert all(each.get("alt") for each in found.all("img"))
    assert all(each.get("aria-label") for each in found.all("svg"))
    assert "en" == next(found.all("html"))["lang"]
    scrolls = [each for each in found.all("div") if each.get("class") == "scroll"]
    assert all(each.get("tabindex") == "0" and each.get("aria-label") for each in scrolls)


def test_scores_of_every_kind(files) -> None:
    """Rows, paired differences, steps, rankings, calibration, nets, and whether a teacher was asked."""
    bundle = with_scores(files.dense, evaluation(), incremental(), ranked(), live())
    found = read(page([bundle], "scores"))

    for words in (
        "Score 1: protocol dm, 24 test images of tiny",
        "✓ Compliant",
        "✗ Not compliant",
        "teacher.0.4 of abababababab",
        "+10.0 ± 2.0",
        "62.00",
        "61.0 63.0",
        "dense (gift)",
        "Accuracy % and std after each of 2 steps",
        "they tell students of classes to come",
        "DD-Ranking, mlp",
        "students are not augmented",
        "Calibration on test data",
        "a student has no temperature",
        "Over 2 nets",
        "62.00 ± 12.71 %",
        "Accuracy against bytes",
    ):
        assert words in found.text, words
    assert "of another form" not in found.text


def test_scores_that_travel_count_once_and_rows_are_named_by_their_bundle(files) -> None:
    """A later stage carries the scores of the one before."""
    first = with_scores(files.dense, evaluation())
    found = read(page([first, with_scores(files.dense, evaluation(), evaluation(protocol="mtt"))], "twice"))
    points = re.findall(r"dense\.ddset(?: \(2\))?(?=dense gift q8)", found.text)

    assert ["dense.ddset", "dense.ddset (2)"] == points


BROKEN = {
    "empty": {},
    "no rows": {"results": []},
    "texts for numbers": {"results": [{"accuracy": {"mean": "0.5"}}]},
    "a text for a row": evaluation(results=[HOSTILE]),
    "a text for a record": evaluation(test=HOSTILE),
    "half a ranking": evaluation(ranking=[{"arch": HOSTILE}]),
    "a text for a mean": evaluation(results=results(more={"accuracy": {"mean": HOSTILE, "std": None, "n": 1}})),
    "steps without a curve": incremental()
    | {"results": results(more={"incremental": {"steps": HOSTILE, "curve": []}})},
}
STRANGE = {
    "no bytes": evaluation(results=results(more={"stored_bytes": 0})),
    "less than no bytes": evaluation(results=results(more={"stored_bytes": -5, "arch": HOSTILE})),
    "more than all right": evaluation(results=results(more={"accuracy": summarise([1e300, -1e300])})),
}


@pytest.mark.parametrize("name", [*BROKEN, *STRANGE])
def test_scores_of_another_form_are_shown_as_they_stand(files, name: str) -> None:
    """The format leaves them open: nothing they say stops the page, and nothing they say becomes markup."""
    record = {**BROKEN, **STRANGE}[name]
    found = read(page([with_scores(files.base, evaluation(), record)], "odd"))

    assert "Score 1: protocol dm" in found.text
    assert "Where the bytes of the file go" in found.text
    assert (name in BROKEN) == ("Score 2: a record of another form" in found.text)
    assert (name in STRANGE) == ("Score 2: protocol dm" in found.text)


def hostile_bundle() -> Bundle:
    """Every text that a bundle can choose says something that must not be obeyed."""
    data = {
        "name": HOSTILE,
        "classes": [HOSTILE, "", "b" * 1000],
        "channels": 1,
        "height": 4,
        "width": 4,
        "train_images": 3,
        "fingerprint": "0" * 64,
        "validation": {"fraction": 0.1},
        "flip": False,
        "space": {"kind": "normalised", "mean": [0.5], "std": [0.5]},
    }
    config = {"method": HOSTILE, "data": HOSTILE, HOSTILE: HOSTILE, "options": {HOSTILE: [HOSTILE]}, "kind": {"a": 1}}
    host = {"device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    record = StageRecord(HOSTILE[:60], config, 0, [], {"flops": {HOSTILE: 3, "b": HOSTILE}}, 500.0, 0.0, host)
    sections = [
        NewSection(
            "images", "images", {"images.pixels": RawTensor("U8", (3, 1, 4, 4), bytes(range(48)))}, range="uint8"
        ),
        NewSection("labels.hard", "labels", {"labels.hard": RawTensor("U8", (3,), bytes(3))}, role="hard", views=1),
    ]
    bundle = Bundle.create("distilled", data, record, sections)
    rows = results(more={"images": HOSTILE, "labels": HOSTILE, "arch": HOSTILE, "loss": {"name": HOSTILE}})
    named = {"name": HOSTILE, "images": 3}
    for each in (evaluation(), incremental()):
        for row in each["results"]:
            row |= rows[0] | {key: row[key] for key in ("accuracy", "stored_bytes", "incremental") if key in row}
        each |= {"test": named, "protocol": HOSTILE, "statistic": HOSTILE, "labels": HOSTILE}
        bundle = bundle.with_evaluation(record, each)
    return bundle


def test_hostile_texts_are_shown_and_not_obeyed() -> None:
    """Class names, settings, versions, nets: escaped for HTML, control and bidirectional characters as escapes."""
    bundle = hostile_bundle()
    bundle.name = f"/somewhere/{HOSTILE.replace('/', '')}.ddset"
    found = read(page([bundle], HOSTILE))

    assert found.text.count("<script>alert(1)") > 10
    assert "\\x1b[31m\\u202e&amp;" in found.text
    assert 3 == sum(1 for _each in found.all("img"))
    assert "(no name)" not in found.text  # the empty class has no image
    assert "8 min 20 s" in found.text


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        yield (*path, key)
        yield from places(child, (*path, key))


def test_nothing_that_scores_and_settings_say_stops_the_page(files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single values of the records that the format leaves open, replaced by others."""
    monkeypatch.setattr("ddlabel.cli._page_parts.pictures", lambda bundle: None)
    bundle = with_scores(files.dense, evaluation(), incremental(), ranked(), live())
    document = json.loads(bundle.manifest.to_json())
    records = ("evaluations", 0), ("evaluations", 1), ("evaluations", 2), ("evaluations", 3)
    everywhere = [(*start, *path) for start in records for path in places(document["evaluations"][start[1]])]
    everywhere += [("history", 1, "config", *path) for path in places(document["history"][1]["config"])]
    everywhere += [("sections", 2, "parameters", *path) for path in places(document["sections"][2]["parameters"])]
    odd = (HOSTILE, None, 10**19, -1e300, [], {}, [{}], {HOSTILE: [HOSTILE]})
    for turn, path in enumerate(everywhere[::23]):
        changed = copy.deepcopy(document)
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = odd[turn % len(odd)]

        assert "Where the bytes of the file go" in read(page([_bare(changed, bundle)], "changed")).text, path


def _bare(document: dict[str, Any], bundle: Bundle) -> Bundle:
    """The bundle under another manifest."""
    changed = copy.copy(bundle)
    changed.manifest = Manifest(document)
    return changed


def test_many_points_leave_some_out_of_the_picture_alone(files) -> None:
    """Those that nothing beats stay; the table has all."""
    rows = [
        row | {"stored_bytes": 1000 + place, "accuracy": summarise([0.5 - place / 100] * 2)}
        for place in range(40)
        for row in results()[:1]
    ]
    found = read(page([with_scores(files.dense, evaluation(results=rows))], "many"))

    assert "12 points are left out of the picture" in found.text
    assert 28 == sum(1 for _each in found.all("circle"))
    assert "yes" in found.text


def test_labels_outside_the_classes_and_damaged_pixels_are_refused(run_cli, files, tmp_path: Path) -> None:
    """As `inspect --grid` refuses them; the page is not written."""
    damaged = bytearray(files.base.read_bytes())
    bundle = Bundle.open(files.base)
    pixels = bundle.read("images.pixels")[2]
    where = damaged.index(pixels)
    damaged[where] ^= 1
    wrong, out = tmp_path / "wrong.ddset", tmp_path / "r.html"
    wrong.write_bytes(damaged)
    outcome = run_cli("report", wrong, "-o", out)

    assert 3 == outcome.code
    assert "images.pixels" in outcome.err
    assert not out.exists()


def test_a_bundle_of_a_newer_ddlabel_has_its_page_without_pictures(files) -> None:
    """As it can be inspected; what is missing is said."""
    document = copy.deepcopy(dict(Bundle.open(files.base).manifest.document))
    document["requires"] = ["tomorrow.thing"]
    newer = Bundle(Manifest(document), {}, "newer.ddset")
    found = read(page([newer], "newer"))

    assert "requires 'tomorrow.thing', unknown to this ddlabel" in found.text
    assert "Where the bytes of the file go" in found.text
    assert not list(found.all("img"))


@pytest.mark.parametrize("path", ARCHIVES, ids=[path.stem for path in ARCHIVES])
def test_archives_of_every_version_render(path: Path) -> None:
    """Files of old releases have their page too."""
    found = read(page([Bundle.open(path)], "archive"))

    assert path.name in found.text
    assert "Where the bytes of the file go" in found.text
    assert any(True for _each in found.all("img"))


def test_a_partial_bundle_says_how_far_it_is_and_trajectories_are_listed(files) -> None:
    """Kinds without images."""
    record = StageRecord("distill", {"method": "dm"}, 0, [], {}, 0.0, 1.0, {})
    said = {"done": 30, "total": 120, "unit": "steps"}
    partial = Bundle.create("partial", None, record, [NewSection("state.progress", "state", {}, parameters=said)])
    unknown = Bundle.create("partial", None, record, [NewSection("state.other", "state", {}, parameters={})])
    path = {"arch": "mlp", "epochs": [0, 1, 2], "recipe": {"optimizer": "sgd", "lr": 0.1}, "accuracy": {"test": 0.5}}
    teacher = Bundle.open(files.teacher).with_stage(
        record,
        add=[
            NewSection(
                "trajectory.0", "trajectory", {"trajectory.0": RawTensor("F32", (3, 1), bytes(12))}, parameters=path
            ),
            NewSection(
                "trajectory.1", "trajectory", {"trajectory.1": RawTensor("F32", (1, 1), bytes(4))}, parameters={}
            ),
        ],
    )
    found = read(page([partial, unknown, teacher], "kinds"))

    assert "30 of 120 steps done" in found.text
    assert "done: 25.0 %" in [each.get("aria-label") for each in found.all("svg")]
    assert "how far its run came is not recorded" in found.text
    assert "Expert trajectories" in found.text
    assert "0 to 2" in found.text
    assert "expert trajectories: they can reveal training data" in found.text


def test_many_sections_and_a_ring_of_digests_end(files) -> None:
    """What a file says of its inputs can be a lie: the graph is drawn nonetheless, or left out when too large."""
    ring = [Bundle.open(files.base) for _copy in range(3)]
    contents = ["aa" * 32, "bb" * 32]
    for bundle in ring:
        document = copy.deepcopy(dict(bundle.manifest.document))
        entry = document["history"][0]
        document["history"] = [
            entry | {"inputs": [{"content": content, "kind": "distilled"}]} for content in (*contents, *contents)
        ]
        bundle.manifest = Manifest(document)
    crowd = [{"content": f"{number:064x}", "kind": "teacher"} for number in range(70)]
    many = Bundle.open(files.soft)
    document = copy.deepcopy(dict(many.manifest.document))
    document["history"][0]["inputs"] = crowd
    many.manifest = Manifest(document)

    assert "How they come from each other" in read(page(ring, "ring")).text
    found = read(page([many], "crowd"))
    assert "too many for a picture" in found.text
    assert "58 more" in found.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no bundle given"),
        (["BASE"], "option 'output' is missing"),
        (["BASE", "-o", "BASE"], "also an input"),
        (["BASE", "-o", "-", "--json"], "both write to stdout"),
        (["-", "-", "-o", "r.html"], "stdin at most once"),
        (["BASE", "-o", "HERE"], "exists"),
        (["BASE", "-o", "no/such/r.html"], "does not exist"),
    ],
)
def test_refusals(run_cli, files, tmp_path: Path, arguments: list[str], message: str) -> None:
    """Before anything is read; an existing file stays as it is."""
    here = tmp_path / "here.html"
    here.write_text("mine")
    names = {"BASE": files.base, "HERE": here}
    outcome = run_cli("report", *(names.get(each, each) for each in arguments))

    assert 2 == outcome.code
    assert message in outcome.err + outcome.out
    assert "mine" == here.read_text()


def test_json_says_what_was_written_and_force_replaces(run_cli, files, tmp_path: Path) -> None:
    """One document on stdout."""
    here = tmp_path / "here.html"
    here.write_text("mine")
    outcome = run_cli("report", files.base, "-o", here, "--force", "--json", "--quiet", "--no-fsync")
    said = json.loads(outcome.out)

    assert (0, "") == (outcome.code, outcome.err)
    assert ("ddlabel.report", here.stat().st_size) == (said["schema"], said["bytes"])
    assert [Bundle.open(files.base).content] == [each["content"] for each in said["bundles"]]
    read(here)


def test_torch_is_imported_for_float_images_alone(files, tmp_path: Path) -> None:
    """Pages of stored pixels and of teachers need neither torch nor numpy."""
    arguments = ["report", str(files.teacher), str(files.dense), "-o", str(tmp_path / "r.html")]
    code = f"import sys; from ddlabel.cli.app import main; main({arguments!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"torch", "numpy", "safetensors", "rich", "PIL"} & set(done.stdout.split())


def test_every_text_is_escaped_unless_it_was_made_here() -> None:
    """Children, attributes, cells; names with a dot keep their spelling."""
    assert '<p class="a&quot;b">&lt;i&gt;<b>x</b></p>' == tag("p", "<i>", tag("b", "x"), class_='a"b')
    assert "<br>" == tag("br")
    assert "<td hidden></td>" == tag("td", None, hidden=True, id=None)
    assert "&lt;i&gt;" in table("t", [("<i>", "left")], [["<i>"]])
    assert ("Labels: x", "labels.hard: x") == (capital("labels: x"), capital("labels.hard: x"))


def contrast(one: str, two: str) -> float:
    """WCAG's ratio of two colours, `#rgb` or `#rrggbb`."""

    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_their_ground(scheme: int) -> None:
    """At least 4.5 to 1 on page, cards and tints; marks of charts at least 3 to 1 on the page."""
    colours = dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", re.findall(r":root\{(.*?)\}", STYLE, re.S)[scheme]))

    for ground in ("paper", "card", "tint"):
        for ink in ("ink", "soft", "link", "warn", "good"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for mark in "abcdefgh":
        assert contrast(colours[mark], colours["paper"]) >= 3, mark

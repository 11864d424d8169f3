"""The manifest against its own table, against JSON Schema (by `jsonschema`), and against hand-written digests."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ddlabel import __version__, header, manifest_rules, schema
from ddlabel.bundle import Bundle, NewSection, RawTensor
from ddlabel.digests import canonical_json, content_digest, images_digest
from ddlabel.errors import BundleError, DivergedError
from ddlabel.manifest import Manifest, printable
from ddlabel.manifest_rules import MANIFEST_SPEC, json_schema, required_features, section_features, understands
from ddlabel.schema import Anything, Array, Map, Nullable, Record, Spec

from .forging import (
    DATA,
    Forgery,
    as_bytes,
    case,
    fault,
    hard_section,
    images_section,
    make_distilled,
    reopen,
    stage_record,
    teacher_section,
)

PUBLISHED = Path(__file__).parents[2] / "docs" / "manifest.schema.json"
WRONG: tuple[Any, ...] = (None, True, 1.5, -1, 2**63, "no such word \n", [], ["x"], {}, {"x": []})


def places(spec: Spec, value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Spec]]:
    """Every typed place of a document, with its rule: all fields, the first item of lists and maps."""
    yield path, spec
    inner = spec.inner if isinstance(spec, Nullable) else spec
    if value is None:
        return
    if isinstance(inner, Record):
        for key, rule in {**inner.required, **inner.optional}.items():
            if key in value:
                yield from places(rule, value[key], (*path, key))
    elif isinstance(inner, Array) and value:
        yield from places(inner.item, value[0], (*path, 0))
    elif isinstance(inner, Map) and value:
        key = next(iter(value))
        yield from places(inner.value, value[key], (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with another value at a place."""
    if not path:
        return value
    changed = copy.copy(document)
    changed[path[0]] = put(document[path[0]], path[1:], value)
    return changed


def every_key() -> dict[str, Any]:
    """A manifest in which every optional key occurs in the first item of its list."""
    document = copy.deepcopy(dict(make_distilled().manifest.document))
    sections = document["sections"]
    sections.sort(key=lambda record: record["name"] != "labels.dense")
    sections[0] |= {"range": "float32", "stale": True, "zip_bytes": 7, "fidelity": {"kl_t1": 0.5}}
    sections[0]["codec"]["parameters"] = {"bits": 8}
    document["data"]["space"] |= {"epsilon": 0.1, "section": "transform.zca"}
    document["history"].sort(key=lambda entry: not entry["inputs"])
    document["evaluations"] = [{"accuracy": 0.5}]
    return document


DOCUMENT = every_key()
PLACES = [item for item in places(MANIFEST_SPEC, DOCUMENT) if not isinstance(item[1], Anything)]
CHECKER = jsonschema.Draft202012Validator(MANIFEST_SPEC.json_schema())


def test_every_field_of_the_table_occurs_in_the_tested_document() -> None:
    """The generated faults below reach every rule of the table."""

    def rules(spec: Spec) -> Iterator[int]:
        yield id(spec)
        children = [getattr(spec, name) for name in ("inner", "item", "value") if hasattr(spec, name)]
        if isinstance(spec, Record):
            children += [*spec.required.values(), *spec.optional.values()]
        for child in children:
            yield from rules(child)

    reached = {id(spec) for _path, spec in places(MANIFEST_SPEC, DOCUMENT)}
    reached |= {id(spec.inner) for _path, spec in PLACES if isinstance(spec, Nullable)}

    assert set(rules(MANIFEST_SPEC)) == reached


@pytest.mark.parametrize(
    "path", [path for path, _spec in PLACES], ids=lambda path: "fault 52: " + ".".join(map(str, path))
)
@pytest.mark.fault(52)
def test_fault_52_wrong_type_in_each_field(path: tuple[Any, ...]) -> None:
    """Our check and the published schema refuse the same wrong values, and the manifest is then no bundle's."""
    refused = 0
    for wrong in WRONG:
        document = put(DOCUMENT, path, wrong)
        ours = list(MANIFEST_SPEC.problems(document, ""))

        assert CHECKER.is_valid(document) == (not ours), (path, wrong, ours)
        if ours:
            refused += 1
            with pytest.raises(BundleError, match=r"x\.ddset: "):
                Manifest.parse(canonical_json(document), "x.ddset")

    assert refused >= 4


@pytest.mark.parametrize(
    "path",
    [(*path, key) for path, spec in PLACES for key in getattr(getattr(spec, "inner", spec), "required", ())],
    ids=lambda path: "fault 52: without " + ".".join(map(str, path)),
)
@pytest.mark.fault(52)
def test_fault_52_missing_field(path: tuple[Any, ...]) -> None:
    """A required key that is missing is named; the published schema refuses it too."""
    parent: Any = DOCUMENT
    for key in path[:-1]:
        parent = parent[key]
    document = put(DOCUMENT, path[:-1], {key: value for key, value in parent.items() if key != path[-1]})

    with pytest.raises(BundleError, match=re.escape(f"{path[-1]}' is missing")):
        Manifest.parse(canonical_json(document), "x.ddset")
    assert not CHECKER.is_valid(document)


def test_the_published_schema_is_fresh() -> None:
    """`docs/manifest.schema.json` is what `python docs/generate.py` writes."""
    assert json.loads(PUBLISHED.read_text()) == json_schema()


@pytest.mark.parametrize("kind", ["plain", "rich", "teacher", "partial", "without data"])
def test_every_manifest_we_write_is_valid_by_the_published_schema(kind: str) -> None:
    """Third parties can check our files with a standard tool."""
    bundle = {
        "plain": lambda: make_distilled(rich=False),
        "rich": make_distilled,
        "teacher": lambda: Bundle.create("teacher", DATA, stage_record("train-teacher"), [teacher_section()]),
        "partial": lambda: Bundle.create("partial", DATA, stage_record(), [state_section()]),
        "without data": lambda: Bundle.create("teacher", None, stage_record(), [teacher_section()]),
    }[kind]()
    rules = json.loads(PUBLISHED.read_text())
    jsonschema.Draft202012Validator.check_schema(rules)

    jsonschema.Draft202012Validator(rules).validate(bundle.manifest.document)


def state_section() -> NewSection:
    return NewSection("state.images", "state", {"state.images.step": RawTensor("I64", (), bytes(8))})


@pytest.mark.parametrize(
    ("kind", "lost"),
    [("distilled", "images"), ("distilled", "labels.hard"), ("teacher", "teacher.0.10"), ("partial", "state.images")],
    ids=lambda value: value,
)
def test_each_kind_needs_its_sections(kind: str, lost: str) -> None:
    """A bundle without what its kind promises is refused when made, when read, and by the schema."""
    sections = [images_section(), hard_section(), teacher_section(), state_section()]
    complete = Bundle.create(kind, DATA, stage_record(), sections)
    document = copy.deepcopy(dict(complete.manifest.document))
    document["sections"] = [record for record in document["sections"] if record["name"] != lost]

    with pytest.raises(BundleError, match="needs a section"):
        Bundle.create(kind, DATA, stage_record(), [section for section in sections if section.name != lost])
    with pytest.raises(BundleError, match="needs a section"):
        complete.with_stage(stage_record(), drop=[lost])
    with pytest.raises(BundleError, match="needs a section"):
        Manifest.parse(canonical_json(document), "x.ddset")
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(document)


@pytest.mark.fault(57)
def test_fault_57_newer_minor_is_read_and_its_keys_written_back(forged: Forgery) -> None:
    """Format 1.9: unknown keys at every level survive copying and a further stage."""
    forged.document |= {"format": [1, 9], "novel": {"a": [1]}}
    forged.section("labels.dense")["novel"] = 1
    forged.section("labels.dense")["tensors"]["labels.dense.codes"]["novel"] = 2
    forged.document["history"][0]["novel"] = 3
    forged.document["storage"]["novel"] = 4
    newer = reopen(forged.build(), verify=True)
    copied = reopen(as_bytes(newer), verify=True).manifest.document
    longer = newer.with_stage(stage_record("evaluate")).manifest.document

    assert copied["storage"]["novel"] == 4
    for document in (copied, longer):
        dense = next(record for record in document["sections"] if record["name"] == "labels.dense")
        assert document["format"] == [1, 9]
        assert document["novel"] == {"a": [1]}
        assert (dense["novel"], dense["tensors"]["labels.dense.codes"]["novel"]) == (1, 2)
        assert document["history"][0]["novel"] == 3


@pytest.mark.parametrize("version", [[2, 0], [0, 9], [2], [3, {}]], ids=str)
@pytest.mark.fault(58)
def test_fault_58_other_major_is_refused_with_advice(forged: Forgery, refuses, version: list[Any]) -> None:
    """Format 2.0 may mean anything; the message says which version is read and which ddlabel wrote the bundle."""
    forged.document["format"] = version
    versions = forged.document["history"][-1]["host"]["versions"]
    said = f"format version {version[0]}, this ddlabel reads version 1; needs "
    for writer, expected in (
        ("2.7.1", "ddlabel >= 2.7.1, or write"),
        ("0.1\x1b[2J", f"a ddlabel newer than {__version__}, or write"),
        (None, f"a ddlabel newer than {__version__}, or write"),
    ):
        versions["ddlabel"] = writer
        data = forged.build()
        with pytest.raises(BundleError, match=re.escape(said + expected)):
            reopen(data)
    refuses(data, re.escape(said + expected))
    del forged.document["history"]
    with pytest.raises(BundleError, match=re.escape(said + expected)):
        reopen(forged.build())


@pytest.mark.fault(59)
def test_fault_59_unknown_feature_opens_copies_and_is_named_when_used(forged: Forgery) -> None:
    """A codec of the future: everything but its section can be used, and the file can be copied."""
    forged.section("labels.dense")["codec"] = {"name": "zz9", "parameters": {}}
    forged.document["requires"] = ["codec.zz9", "labels.dense"]
    data = forged.build()
    bundle = reopen(data, verify=True)
    longer = bundle.with_stage(stage_record("evaluate"))

    assert bundle.read("images.pixels")[1] == (4, 1, 4, 4)
    assert "codec.zz9" in longer.manifest.requires
    assert bundle.content != longer.content
    assert bundle.content == reopen(as_bytes(bundle), verify=True).content
    for use in (
        lambda: bundle.section("labels.dense"),
        lambda: bundle.require(bundle.manifest.sections[2]),
        lambda: bundle.read("labels.dense.codes"),
        lambda: bundle.tensor("labels.dense.codes"),
        lambda: bundle.slice("labels.dense.codes", 0, 1),
    ):
        with pytest.raises(BundleError, match=r"section 'labels\.dense' requires 'codec\.zz9', unknown"):
            use()


@pytest.mark.fault(59)
def test_fault_59_feature_that_no_section_explains_blocks_every_section(forged: Forgery) -> None:
    """`requires` may speak of the whole bundle; then nothing may be used, but the file still copies."""
    forged.document["requires"] = sorted([*forged.document["requires"], "encryption"])
    bundle = reopen(forged.build(), verify=True)

    with pytest.raises(BundleError, match="section 'images' requires 'encryption'"):
        bundle.read("images.pixels")
    assert "encryption" in reopen(as_bytes(bundle.with_stage(stage_record()))).manifest.requires


def test_features_of_dropped_sections_leave_the_list(rich: Bundle) -> None:
    """`requires` speaks of the sections that are there."""
    assert rich.manifest.requires == ["codec.q8", "labels.dense", "labels.refined"]
    assert rich.with_stage(stage_record(), drop=["labels.dense"]).manifest.requires == []


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"kind": "images", "range": "uint8"}, set()),
        ({"kind": "images", "range": "latent"}, {"range.latent"}),
        ({"kind": "labels", "role": "soft", "codec": {"name": "f16"}, "domain": "prob"}, set()),
        ({"kind": "labels", "role": "fkd", "codec": {"name": "q4"}}, {"codec.q4", "labels.fkd"}),
        ({"kind": "labels", "role": "hard", "domain": "rank"}, {"domain.rank"}),
        ({"kind": "scores", "role": "loss"}, set()),
        ({"kind": "labels", "role": "soft", "refined": {}}, {"labels.refined"}),
        ({"kind": "state", "tensors": {"a": {"packed": {"method": "zstd"}}, "b": {}}}, set()),
        ({"kind": "state", "tensors": {"a": {"packed": {"method": "lz4"}}}}, {"packed.lz4"}),
    ],
    ids=[
        "pixels",
        "other range",
        "plain soft",
        "codec and role",
        "other domain",
        "scores have roles too",
        "refined labels",
        "packed by zstd",
        "packed otherwise",
    ],
)
def test_features_follow_from_a_section(record: dict[str, Any], expected: set[str]) -> None:
    """Whatever a reader of format 1.0 does not know by heart is named."""
    assert expected == section_features({"tensors": {}, **record})


def test_what_cannot_be_used_is_not_written(rich: Bundle) -> None:
    """A misspelt range, domain, role or codec is found by the stage that writes it."""
    typo = NewSection("labels.soft", "labels", {"labels.soft.x": RawTensor("U8", (4,), bytes(4))}, domain="logits")

    with pytest.raises(BundleError, match=r"section 'labels\.soft' requires 'domain\.logits', unknown"):
        rich.with_stage(stage_record(), add=[typo])


def test_features_follow_from_the_space() -> None:
    """Whitened images need a reader that whitens."""
    assert {"space.zca"} == required_features([], {"space": {"kind": "zca"}})
    assert set() == required_features([], {"space": {"kind": "normalised"}})
    assert set() == required_features([], None)


def test_plugins_are_understood_by_their_presence() -> None:
    """A codec or label kind is one file; nothing else lists it."""
    assert understands("codec.q8")
    assert understands("codec.f32")
    assert understands("labels.dense")
    assert understands("space.zca")
    assert not understands("codec.zz9")
    assert not understands("labels.q8")
    assert not understands("novel")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(history=d["history"] * 10_000), "'history' has .* items, expected 1 to 4096"),
        (lambda d: d["data"].update(name="x" * 10**6), "'data.name' has 1000000 characters, expected at most 65536"),
        (lambda d: d["history"][0]["config"].update(x="x" * 10**6), "1000000 characters"),
        (lambda d: d["history"][0]["config"].update({"x" * 10**6: 1}), "1000000 characters"),
        (lambda d: d["data"].update(classes=["c"] * 100_001), "'data.classes' has 100001 items"),
        (lambda d: d.update(evaluations=[{}] * 4097), "'evaluations' has 4097 items"),
        (lambda d: d.update(novel=["x" * 65_537]), "'novel' has 65537 characters"),
        (lambda d: d.update(requires=["codec.a"] * 257), "'requires' has 257 items"),
    ],
    ids=[
        "fault 60: history of 10,000 entries",
        "fault 60: name of 1 MB",
        "fault 60: free text of 1 MB",
        "fault 60: free key of 1 MB",
        "fault 60: more classes than any data set",
        "fault 60: more evaluations than any study",
        "fault 60: text in an unknown key",
        "fault 60: more features than exist",
    ],
)
@pytest.mark.fault(60)
def test_fault_60_limits(change: Any, expected: str) -> None:
    """Every list and text of a manifest has a named limit."""
    document = copy.deepcopy(DOCUMENT)
    change(document)

    with pytest.raises(BundleError, match=expected):
        Manifest.parse(canonical_json(document), "x.ddset")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        case(fault(52), "a wrong type", lambda d: d.update(kind=7), "'kind' is 7"),
        case(fault(52), "a wrong type deep inside", lambda d: d["sections"][0].update(tensors=[]), "tensors"),
        case(fault(52), "a missing field", lambda d: d.pop("requires"), "'requires' is missing"),
        case(fault(60), "a list", lambda d: d.update(requires=["codec.a"] * 257), "'requires' has 257 items"),
        case(fault(60), "a text", lambda d: d["data"].update(name="x" * 10**6), "expected at most 65536"),
    ],
)
def test_the_command_line_refuses_wrong_fields(forged: Forgery, refuses, change: Any, expected: str) -> None:
    """Exit 3 and one line, as of any damage."""
    change(forged.document)

    refuses(forged.build(honest=False), expected)


@pytest.mark.fault(60)
def test_fault_60_limits_hold_when_writing(monkeypatch: pytest.MonkeyPatch, rich: Bundle) -> None:
    """What readers would refuse is never written."""
    with pytest.raises(BundleError, match="expected at most 65536"):
        rich.with_stage(stage_record(config={"x": "y" * 70_000}))
    monkeypatch.setattr(schema, "MAX_TEXT", 5)
    monkeypatch.setattr(header, "MAX_JSON_DEPTH", 32)
    with pytest.raises(BundleError, match="expected at most 5"):
        rich.with_stage(stage_record(config={"x": "123456"}))
    monkeypatch.undo()
    nested: Any = 1
    for _level in range(40):
        nested = [nested]
    with pytest.raises(BundleError, match="nested deeper than 32"):
        rich.with_stage(stage_record(config={"x": nested}))
    monkeypatch.setattr("ddlabel.writer.MAX_TENSORS", 5)
    with pytest.raises(BundleError, match="tensors, a bundle may have 5"):
        rich.with_stage(stage_record())


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["NaN", "infinity"])
def test_numbers_that_are_not_finite_are_never_recorded(rich: Bundle, value: float) -> None:
    """JSON has no NaN; a metric that became NaN means that something diverged."""
    with pytest.raises(DivergedError, match="not finite"):
        rich.with_stage(stage_record(metrics={"loss": value}))


def test_half_a_character_is_never_recorded(rich: Bundle) -> None:
    """A folder name that is not UTF-8 arrives in Python as a lone surrogate."""
    with pytest.raises(BundleError, match="not Unicode"):
        rich.with_stage(stage_record(config={"data": "caf\udce9"}))


@pytest.mark.fault(62)
def test_fault_62_control_characters_are_stored_and_shown_escaped() -> None:
    """Class names may hold anything; a terminal sees escapes."""
    evil = "cat\x1b[2J\x07\r\n\u202egod\u200b\U000e0041\x9b1m\ufeff"
    bundle = Bundle.create(
        "distilled", DATA | {"classes": [evil, "chien é 犬"]}, stage_record(), [images_section(), hard_section()]
    )
    reread = reopen(as_bytes(bundle)).manifest.data

    assert reread is not None
    assert [evil, "chien é 犬"] == reread["classes"]
    assert printable(evil) == r"cat\x1b[2J\x07\r\n\u202egod\u200b\U000e0041\x9b1m\ufeff"
    assert printable("chien é 犬") == "chien é 犬"
    assert printable("\udce9") == r"\udce9"


def test_canonical_json_is_one_spelling_per_document() -> None:
    """Sorted keys, no white space, UTF-8."""
    assert '{"a":[1,2.5,null,true],"é":"犬"}'.encode() == canonical_json({"é": "犬", "a": [1, 2.5, None, True]})


def test_content_digest_is_the_documented_one(rich: Bundle) -> None:
    """The digest by the words of docs/format.md, spelled out here again."""
    document = json.loads(json.dumps(rich.manifest.document))
    del document["storage"]
    for entry in document["history"]:
        del entry["time"], entry["host"]
    document["sections"].sort(key=lambda record: record["name"])
    for record in document["sections"]:
        record.pop("zip_bytes", None)
        for name, tensor in record["tensors"].items():
            raw = tensor.get("packed", tensor)
            record["tensors"][name] = [raw["dtype"], raw["shape"], raw["sha256"]]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert hashlib.sha256(text.encode()).hexdigest() == rich.content == content_digest(rich.manifest.document)


def test_images_digest_is_the_documented_one() -> None:
    """sha256 of {name: [dtype, shape, sha256 of the bytes]}."""
    section = images_section(1)
    digest = hashlib.sha256(bytes(range(16))).hexdigest()
    text = f'{{"images.pixels":["U8",[1,1,4,4],"{digest}"]}}'
    bundle = Bundle.create("distilled", DATA, stage_record(), [section, hard_section(1)])

    assert hashlib.sha256(text.encode()).hexdigest() == bundle.images_digest()
    assert bundle.images_digest() == images_digest(bundle.section("images").tensors)


def test_sections_are_views_of_the_table(rich: Bundle) -> None:
    """Every key of the table has a typed name."""
    dense = rich.section("labels.dense")
    images = rich.section("images")

    assert (dense.name, dense.kind, dense.role) == ("labels.dense", "labels", "dense")
    assert (dense.codec, dense.domain, dense.views) == ({"name": "q8", "parameters": {}}, "logit", 9)
    assert dense.parameters == {"grid": 3, "ratio": "5/8", "size": 4}
    assert (rich.images_digest(), ["cd" * 32], {"method": "gift"}, False) == (
        dense.of,
        dense.teacher,
        dense.refined,
        dense.stale,
    )
    assert (
        images.range,
        images.role,
        images.codec,
        images.of,
        images.refined,
        images.teacher,
    ) == ("uint8", None, None, None, None, [])


def test_limits_are_named_constants() -> None:
    """The limits of docs/format.md."""
    assert (
        header.MAX_HEADER_BYTES,
        header.MAX_TENSORS,
        header.MAX_NAME_BYTES,
        header.MAX_RANK,
        header.MAX_JSON_DEPTH,
    ) == (16 * 2**20, 65_536, 255, 8, 32)
    assert (
        manifest_rules.MAX_MANIFEST_BYTES,
        manifest_rules.MAX_HISTORY,
        manifest_rules.MAX_EVALUATIONS,
        manifest_rules.MAX_SECTIONS,
        schema.MAX_TEXT,
    ) == (64 * 2**20, 4096, 4096, 65_536, 65_536)

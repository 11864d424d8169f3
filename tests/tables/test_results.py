"""The file of results: what is added, what is read, what is paired; and the page that is made of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from ddlabel.errors import UsageError
from ddlabel.tables._results import append_results, latest, paired, read_results

DOCS = Path(__file__).parents[2] / "docs"


def record(row: str = "pad-1/cifar10-ipc1-random", digest: str = "a" * 64, **more):
    """A number as `recipes run` records it."""
    values = more.pop("values", [20.0, 22.0])
    return {
        "row": row,
        "cell": "",
        "budget": "cpu",
        "unit": "%",
        "published": 15.4,
        "ours": sum(values) / len(values),
        "n": len(values),
        "interval": 12.7,
        "values": values,
        "seeds": list(range(len(values))),
        "stored_bytes": 30730,
        "data": "cifar10",
        "stands_for": "cifar10",
        "digest": digest,
        "commands": [],
        "host": {"device": "cpu", "threads": 1, "versions": {"torch": "2.15.0"}},
        "commit": "abc1234",
        "seconds": 1.0,
        **more,
    }


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_number_is_added_once(tmp_path: Path) -> None:
    """Again the same bundle adds nothing; another bundle of the row does, and is the latest."""
    path = tmp_path / "results.jsonl"
    append_results([record()], path)
    append_results([record(commit="later"), record(digest="b" * 64, ours=30.0)], path)

    records = read_results(path)

    assert [each["digest"][0] for each in records] == ["a", "b"]
    assert latest(records)["pad-1/cifar10-ipc1-random", "", "cpu"]["ours"] == 30.0


def test_half_a_last_line_is_passed_over_and_other_nonsense_is_named(tmp_path: Path) -> None:
    """A kill may cut the last line; a line in the middle that is no record is an error."""
    path = tmp_path / "results.jsonl"
    append_results([record()], path)
    whole = path.read_text()
    path.write_text(whole + '{"row": "pa')
    assert len(read_results(path)) == 1

    path.write_text("nonsense\n" + whole)
    with pytest.raises(UsageError, match="no result in line 1"):
        read_results(path)


@pytest.mark.parametrize("tail", [b'{"row": "pa', b"\xff\xfe", json.dumps(record(digest="b" * 64)).encode()])
def test_adding_after_half_a_line_keeps_both_lines_whole(tmp_path: Path, tail: bytes) -> None:
    """What a kill left behind swallows no record, also where only the end of the line is missing."""
    path = tmp_path / "results.jsonl"
    append_results([record()], path)
    path.write_bytes(path.read_bytes() + tail)

    append_results([record(digest="b" * 64)], path)

    assert [each["digest"][0] for each in read_results(path)] == ["a", "b"]


def test_pairs_are_by_seed() -> None:
    """Differences one by one, their mean, its standard error and their number; seeds that only one has are left out."""
    assert paired(record(values=[3.0, 5.0]), record(values=[1.0, 1.0])) == (3.0, 1.0, 2)
    assert paired(record(values=[3.0, 5.0, 90.0]), record(values=[1.0, 1.0], seeds=[1, 0])) == (3.0, 1.0, 2)
    assert paired(record(values=[3.0, 5.0]), record(values=[4.0], seeds=[1])) == (1.0, None, 1)
    with pytest.raises(ValueError, match="no seed in common"):
        paired(record(values=[3.0, 5.0]), record(values=[1.0, 1.0], seeds=[2, 3]))


def test_a_difference_says_how_many_pairs_it_has_where_not_all() -> None:
    """Five students against twenty are five pairs; one pair of several students is no difference."""
    difference = script("results").difference
    few, many = record(values=[10.0, 12.0]), record(values=[11.0, 15.0, 0.0])

    assert difference(many, few) == "+2.00 ± 1.00 (2 pairs)"
    assert difference(few, many) == "-2.00 ± 1.00 (2 pairs)"
    assert difference(few, few) == "+0.00 ± 0.00"
    assert difference(record(values=[3.0]), record(values=[1.0])) == "+2.00"
    assert difference(many, record(values=[1.0, 1.0], seeds=[2, 3])) == ""


def test_the_page_has_published_and_ours_and_the_paired_gain() -> None:
    """A row against another one; data that stands for others is named."""
    base = record("pad-1/cifar10-ipc1-random", values=[10.0, 12.0])
    gain = record("pad-1/cifar10-ipc1-mtt", values=[14.0, 18.0], published=46.2, digest="c" * 64, data="digits")

    lines = script("results").page([base, gain]).splitlines()

    row = next(line for line in lines if line.startswith("| `cifar10-ipc1-mtt`"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "`cifar10-ipc1-mtt`",
        "",
        "46.2",
        "16.00",
        "12.70",
        "2",
        "30,730",
        "+30.8",
        "+5.00 ± 1.00",
        "`cifar10-ipc1-random`",
        "`cccccccccccc`",
    ]
    assert any("digits (in place of cifar10)" in line for line in lines)


def test_the_page_is_fresh() -> None:
    """Run `python docs/results.py` when this fails, and read the diff."""
    module = script("results")

    assert module.page(read_results(module.FILE)) == (DOCS / "results.md").read_text()


def test_the_page_of_questions_is_fresh() -> None:
    """Run `python docs/questions.py` when this fails, and read its words again with the new numbers."""
    module = script("questions")

    for name, content in module.pages(read_results(module.FILE)).items():
        assert content == (DOCS / name).read_text(), name

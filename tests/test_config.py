"""Option records: what texts become, and that all problems are reported together (against hand-written cases)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ddlabel.config import AugmentLabelsConfig, DistillConfig, EvaluateConfig, RefineConfig, TrainTeacherConfig
from ddlabel.errors import UsageError
from ddlabel.options import as_dict, build, build_many, check, describe, opt, parse_assignments


@dataclass(frozen=True, kw_only=True)
class Sample:
    size: int = opt(..., "a size", min=1, max=9)
    rate: float = opt(0.5, "a rate", above=0)
    names: tuple[str, ...] = opt((), "names")
    kind: str = opt("a", "a kind", choices=("a", "b"))
    maybe: int | None = opt(None, "perhaps")
    flag: bool = opt(False, "a flag")


@dataclass(frozen=True, kw_only=True)
class Other:
    rate: float = opt(1.0, "a rate")
    depth: int = opt(2, "a depth", min=1)


def test_texts_become_typed_values() -> None:
    """Every supported type is read from text."""
    texts = {"size": "3", "rate": "1e-2", "names": "x, y", "kind": "b", "maybe": "7", "flag": "yes"}

    assert Sample(size=3, rate=0.01, names=("x", "y"), kind="b", maybe=7, flag=True) == build(Sample, texts)


def test_auto_and_none_leave_an_optional_value_open() -> None:
    """`auto` is how a user types None."""
    assert build(Sample, {"size": "1", "maybe": "auto"}).maybe is None


def test_all_problems_are_reported_together_with_the_nearest_name() -> None:
    """A user sees everything at once."""
    with pytest.raises(UsageError) as caught:
        build(Sample, {"size": "12", "rat": "1", "kind": "c", "flag": "maybe", "maybe": "1.5"})

    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "did you mean 'rate'?" in problems
    assert "'size' is 12, expected a number >= 1 and <= 9" in problems
    assert "expected one of a, b" in problems
    assert "expected true or false" in problems
    assert "expected a whole number" in problems


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "x"], ids=["nan", "infinity", "overflow", "word"])
def test_numbers_must_be_finite(text: str) -> None:
    """No option is NaN or infinite."""
    with pytest.raises(UsageError, match="number"):
        build(Sample, {"size": "1", "rate": text})


def test_a_required_option_is_asked_for_with_its_help() -> None:
    """The message says what the option is."""
    with pytest.raises(UsageError, match="'size' is missing: a size"):
        build(Sample, {})


def test_records_share_one_namespace() -> None:
    """A name goes to every record that has it, and unknown names list those of all."""
    first, second = build_many([Sample, Other], {"size": "2", "rate": "3", "depth": "4"})

    assert (first.rate, second.rate, second.depth) == (3.0, 3.0, 4)
    with pytest.raises(UsageError, match="did you mean 'depth'"):
        build_many([Sample, Other], {"size": "2", "dept": "4"})


def test_values_given_from_python_are_checked_too() -> None:
    """`check` finds what the constructor lets through."""
    with pytest.raises(UsageError, match="'ipc' is 0, expected a number >= 1"):
        check(DistillConfig(data="digits", ipc=0))


def test_assignments_need_an_equals_sign() -> None:
    """Every malformed `--set` is named."""
    assert parse_assignments(["lr-images=2", "lr_images = 1"]) == {"lr_images": "1"}
    with pytest.raises(UsageError) as caught:
        parse_assignments(["lr", "x=1", "y"])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "config", [TrainTeacherConfig, DistillConfig, AugmentLabelsConfig, RefineConfig, EvaluateConfig]
)
def test_every_stage_option_has_help_and_survives_a_round_trip(config: type) -> None:
    """The manifest's record of a config builds the same config again."""
    required = {option.name: "digits" for option in describe(config) if option.required}
    record = build(config, required)

    assert all(option.help for option in describe(config))
    assert record == build(
        config, {name: tuple(v) if isinstance(v, list) else v for name, v in as_dict(record).items()}
    )

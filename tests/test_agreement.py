"""Teachers and labels of other data than the images are refused, naming both sides, whichever side is the odd one."""

from __future__ import annotations

import pytest

from ddlabel.bundle import Bundle
from ddlabel.errors import BundleError, UsageError
from ddlabel.manifest import Section
from ddlabel.preprocess import check_agreement
from ddlabel.stages._baselines import check_teachers

from .bundle.forging import DATA, stage_record, teacher_section


def teacher_of(**changes) -> Bundle:
    """A teacher whose data record differs."""
    return Bundle.create("teacher", {**DATA, **changes}, stage_record("train-teacher"), [teacher_section()])


SPACE = DATA["space"]
OTHERS = [
    ({"classes": ["dog", "cat"]}, "disagree on 'classes': {} against {}", ("cat, dog", "dog, cat")),
    ({"classes": ["cat", "dog", "elk"]}, "disagree on 'classes': {} against {}", ("cat, dog", "cat, dog, elk")),
    ({"height": 8, "width": 8}, "disagree on 'height': {} against {}", ("4", "8")),
    ({"width": 5}, "disagree on 'width': {} against {}", ("4", "5")),
    ({"channels": 3}, "disagree on 'channels': {} against {}", ("1", "3")),
    ({"space": {**SPACE, "kind": "zca"}}, "disagree on 'space.kind': {} against {}", ("normalised", "zca")),
    ({"space": {**SPACE, "mean": [0.4]}}, "disagree on 'space.mean': {} against {}", ("0.5", "0.4")),
]


@pytest.mark.fault(71)
@pytest.mark.parametrize(("changes", "message", "sides"), OTHERS, ids=[" ".join(other[0]) for other in OTHERS])
def test_both_sides_are_named_whichever_is_odd(changes: dict, message: str, sides: tuple[str, str]) -> None:
    """Class order, image size, grey against colour, normalisation: exit 3."""
    plain, odd = teacher_of(), teacher_of(**changes)
    check_agreement(plain, teacher_of())
    for left, right, (ours, theirs) in ((plain, odd, sides), (odd, plain, sides[::-1])):
        with pytest.raises(BundleError) as caught:
            check_agreement(left, right)
        assert message.format(ours, theirs) in str(caught.value)
        assert (3, left.name) == (caught.value.exit_code, str(caught.value).partition(" and ")[0])


@pytest.mark.fault(71)
def test_teachers_that_made_other_labels_are_named_by_digest() -> None:
    """Both digests; none at all is an option left out. More teachers than those that made the labels do no harm."""
    made, other = teacher_of(), teacher_of(name="other")
    section = Section({"teacher": [made.content]})
    check_teachers("soft", section, [other, made])
    with pytest.raises(BundleError, match=rf"that made them \({made.content[:12]}\), got 1 \({other.content[:12]}\)"):
        check_teachers("soft", section, [other])
    with pytest.raises(UsageError, match=rf"\({made.content[:12]}\), got 0 \(none\); pass them with --teacher"):
        check_teachers("soft", section, [])

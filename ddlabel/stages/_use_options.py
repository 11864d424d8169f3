"""What `evaluate --set` says of feature and attention labels: weights, and how students use them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..labels._privileged import PrivilegedSet, objective_of
from ..options import OptionDoc, as_dict, build_many, describe, opt
from ..privileged._form import ATTENTIONS
from ..privileged._objective import Objective
from ..privileged._student import ADAPTERS

__all__ = ["USE_OPTIONS", "UseOptions", "describe_use", "read_options"]

AS = "as"
"""The option that pools labels late; a keyword of Python, so no field."""
FORMS = ("feature", *ATTENTIONS)


@dataclass(frozen=True, kw_only=True)
class UseOptions:
    """How students use labels, beside the weights of the `Objective`; and `as`, one of feature, spatial, channel."""

    adapter: str = opt(
        "auto",
        "between features of a student and labels of another shape: auto (trained, where shapes differ), learned "
        "(always), orthogonal (drawn, never trained) or none; thrown away after training",
        choices=ADAPTERS,
    )
    k_use: str = opt(
        "mean", "of several labels per image: their mean, or a random one for each sample", choices=("mean", "random")
    )
    label_aug: str = opt(
        "none",
        "hflip mirrors the labels of images that the augmentation mirrors; labels that were learned so say it",
        choices=("none", "hflip"),
    )
    lambda_mode: str = opt(
        "absolute",
        "what lambda_reg is: a weight, or the length of the labels' gradient relative to that of the classes in new "
        "nets of the first --arch, which the weight follows from",
        choices=("absolute", "relative"),
    )


AS_DOC = OptionDoc(
    name=AS,
    type="text or auto",
    default=None,
    required=False,
    help="pools feature labels late, students' features alike: feature, spatial or channel; auto is as they are stored",
    bounds="one of " + ", ".join(FORMS),
)
USE_OPTIONS = frozenset({AS, *(field.name for cls in (Objective, UseOptions) for field in dataclasses.fields(cls))})
"""What `--set` may say of feature and attention labels."""


def describe_use() -> list[OptionDoc]:
    """What `evaluate --set` says of feature and attention labels beside the weights of the `Objective`."""
    return [*describe(UseOptions), AS_DOC]


def read_options(stored: PrivilegedSet, settings: Mapping[str, Any]) -> tuple[Objective, UseOptions, str | None]:
    """Weights and use of labels, and what they are pooled to: as they were made for, unless settings say others.

    Args:
        stored: the labels.
        settings: what `--set` says; names that are no `USE_OPTIONS` are left alone.

    Raises:
        UsageError: impossible options, or such as the labels do not have.
    """
    said = stored.parameters
    made_for = {**as_dict(objective_of(said)), "label_aug": said.get("label_aug", "none")}
    given = {name: value for name, value in settings.items() if name in USE_OPTIONS and name != AS}
    objective, options = build_many([Objective, UseOptions], {**made_for, **given})
    pooled = settings.get(AS)
    pooled = None if pooled == "auto" else pooled
    problems = []
    if pooled is not None and pooled not in FORMS:
        problems.append(f"option 'as' is '{str(pooled)[:40]}', expected one of {', '.join(FORMS)}")
    elif pooled is not None and stored.form.attention not in {None, pooled}:
        problems.append(
            f"option 'as' is '{pooled}', the labels are pooled already ({stored.form.attention}); only feature labels "
            "can be pooled late"
        )
    if options.k_use == "random" and stored.values.shape[1] == 1:
        problems.append("option 'k_use' is 'random', the bundle holds one label per image")
    if options.lambda_mode == "relative" and ("lambda_reg" not in settings or objective.lambda_reg == 0):
        problems.append(
            f"option 'lambda_mode' is 'relative', lambda_reg is {objective.lambda_reg:g}"
            f"{'' if 'lambda_reg' in settings else ', the weight that the labels were made for'}; expected "
            "--set lambda_reg=RATIO above 0"
        )
    if problems:
        raise UsageError.collect(problems)
    return objective, options, pooled

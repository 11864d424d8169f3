"""What an import must know and the files do not say: from options, from the data set, or from an accepted guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from ..config import ImportConfig
from ..data._dataset import Dataset
from ..errors import BundleError, UsageError
from ..importers._checks import distributions
from ..importers._guess import constants_of, guess, likely_sets, summary_of
from ..importers._importer import Foreign
from ._import_classes import class_names, names_of_the_file
from ._stage import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["OPTION", "Facts", "check_data", "settle"]

OPTION, GUESS, DATA, FILE = "option", "guess accepted", "data set", "file"


@dataclasses.dataclass
class Facts:
    """Facts by name, and where each came from; those of the data set join when it is loaded."""

    values: str = "pixels"
    """pixels (uint8), units or space."""
    space: str = "normalised"
    """normalised or zca."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Per channel; None until the data set says them."""
    domain: str | None = None
    name: str | None = None
    classes: tuple[str, ...] | None = None
    flip: bool | None = None
    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    """By name of the fact."""

    def take(self, fact: str, value: Any, origin: str) -> None:
        """One fact is known."""
        setattr(self, fact, value)
        self.origins[fact] = origin

    def add_data(self, dataset: Dataset) -> None:
        """What the data set says and no option did."""
        info = dataset.info
        for fact, value in (("name", info.name), ("flip", info.flip), ("classes", info.classes)):
            if getattr(self, fact) is None:
                self.take(fact, value, DATA)
        if self.mean is None:
            self.take("mean", info.mean, DATA)
            self.take("std", info.std, DATA)


def settle(foreign: Foreign, config: ImportConfig) -> Facts:
    """Every fact that needs no data set.

    Raises:
        UsageError: facts that are missing, or options that do not fit; all of them in one error.
    """
    facts, problems = Facts(origins=dict(foreign.said)), []
    problems += _settle_values(facts, foreign, config)
    problems += _settle_constants(facts, foreign, config)
    problems += _settle_domain(facts, foreign, config)
    problems += _settle_identity(facts, foreign, config)
    if problems:
        raise UsageError.collect([f"{foreign.name}: {problem}" for problem in problems])
    _check_constants(facts)
    return facts


def _check_constants(facts: Facts) -> None:
    """Refuse constants by which float32 cannot normalise pixels.

    Raises:
        UsageError: of an option.
        BundleError: of the files.
    """
    if facts.mean is None or facts.std is None:
        return
    mean, std = (torch.tensor(values, dtype=torch.float64).float() for values in (facts.mean, facts.std))
    ends = torch.stack([-mean / std, (1 - mean) / std])
    if bool((std > 0).all()) and bool(torch.isfinite(torch.cat([mean, std, ends.flatten()])).all()):
        return
    origin = facts.origins["std"]
    text = f"a mean of {_numbers(facts.mean)} and a std of {_numbers(facts.std)} leave no finite images in float32"
    if origin == OPTION:
        raise UsageError(f"{text}, expected those of pixels from 0 to 1", field="std")
    raise BundleError(f"{origin}: {text}, expected those of pixels from 0 to 1", field="std")


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def check_data(foreign: Foreign, dataset: Dataset) -> None:
    """Refuse a data set of another shape than the images.

    Raises:
        BundleError: naming both shapes.
    """
    info = dataset.info
    ours, theirs = tuple(foreign.images.shape[1:]), (info.channels, info.height, info.width)
    if ours != theirs:
        raise BundleError(
            f"{foreign.name} holds images of {' x '.join(map(str, ours))}, the data set '{info.name}' has "
            f"{' x '.join(map(str, theirs))}",
            field="data",
            hint="name the data set that it was distilled from",
        )


def _settle_values(facts: Facts, foreign: Foreign, config: ImportConfig) -> list[str]:
    """What the numbers are, and the kind of the input space."""
    if not foreign.images.is_floating_point():
        if config.values is not None:
            return ["its images are uint8 pixels, --values is for floats; drop it"]
        facts.take("values", "pixels", f"{FILE} (uint8)")
    else:
        seen = guess(foreign.images)
        if config.values is not None and foreign.values not in (None, config.values):
            return [f"its format says that its values are {foreign.values}, --values is '{config.values}'; drop it"]
        known = config.values or foreign.values
        if known is not None:
            facts.take("values", known, OPTION if config.values else "format")
        elif config.accept_guess and seen.values is not None:
            facts.take("values", seen.values, GUESS)
        else:
            looks = f" look like --values {seen.values}" if seen.values else " fit neither well"
            return [
                "whether its values are pixels from 0 to 1 or what nets were fed is not in the file; give --values "
                f"units or --values space ({summary_of(foreign.images)}{looks})"
            ]
    return _settle_space(facts, foreign, config)


def _settle_space(facts: Facts, foreign: Foreign, config: ImportConfig) -> list[str]:
    whitened = config.space == "zca"
    if config.space is not None:
        facts.take("space", "zca" if whitened else "normalised", OPTION)
    elif "space" in foreign.stated:
        facts.take("space", foreign.stated["space"], foreign.said["space"])
        whitened = facts.space == "zca"
    elif facts.values != "space":
        facts.take("space", "normalised", "default for pixels")
    else:
        seen = guess(foreign.images).space
        if config.accept_guess and seen is not None:
            facts.take("space", seen, GUESS)
            whitened = seen == "zca"
        else:
            return [_missing_space(foreign)]
    if whitened and config.data is None and foreign.zca is None:
        more = (
            ", or import its images_zca_*.pt, which are not whitened, without --space"
            if foreign.twin is not None
            else ""
        )
        return [f"its whitening is not in the file and is fitted again on the training images; give --data SPEC{more}"]
    return []


def _missing_space(foreign: Foreign) -> str:
    seen, sets = guess(foreign.images).space, _likely(foreign)
    named = f" --data {sets[0]}" if seen and sets else ""
    looks = "fit no space well"
    if seen == "zca":
        looks = f"look ZCA-whitened: --space zca{named}"
    elif seen == "normalised":
        by = f" by the constants of {' or '.join(sets)}" if sets else ""
        looks = f"look normalised{by}: --space normalised{named}"
    return (
        "the input space of its images is not in the file; give --space normalised, imagenet or zca "
        f"({summary_of(foreign.images)} {looks})"
    )


def _settle_constants(facts: Facts, foreign: Foreign, config: ImportConfig) -> list[str]:
    """Mean and standard deviation of each channel."""
    channels = foreign.images.shape[1]
    given = [name for name in ("constants", "mean") if getattr(config, name)]
    if bool(config.mean) != bool(config.std):
        return ["--mean and --std belong together, one is missing"]
    if config.space == "imagenet":
        given.append("space")
    if len(given) > 1:
        return [f"its constants are given twice, by --{given[0]} and --{given[1]}; expected one"]
    if not given:
        if "mean" in foreign.stated:
            for fact in ("mean", "std"):
                facts.take(fact, foreign.stated[fact], foreign.said[fact])
            return []
        if config.data is not None:
            return []
        sets = _likely(foreign)
        maybe = f" (its shape and classes are those of {' and '.join(sets)}: --constants {sets[0]})" if sets else ""
        return [
            "the mean and std of its normalisation are not in the file; give --mean and --std, --constants NAME, "
            f"--space imagenet or --data SPEC{maybe}"
        ]
    if config.mean:
        mean, std, origin = config.mean, config.std, OPTION
    elif config.constants:
        (mean, std), origin = constants_of(config.constants), f"option, published constants of {config.constants}"
    else:
        mean, std, origin = IMAGENET_MEAN, IMAGENET_STD, "option, ImageNet's constants"
    if not len(mean) == len(std) == channels:
        return [f"{len(mean)} means and {len(std)} standard deviations, its images have {channels} channels"]
    facts.take("mean", tuple(mean), origin)
    facts.take("std", tuple(std), origin)
    return []


def _settle_domain(facts: Facts, foreign: Foreign, config: ImportConfig) -> list[str]:
    """Logits or probabilities."""
    if foreign.soft is None and foreign.domain is not None and config.domain is None:
        facts.take("domain", foreign.domain, foreign.said.get("domain", FILE))
        return []
    if foreign.soft is None:
        return (
            []
            if config.domain is None or foreign.views
            else ["it has no soft labels whose domain is not said, --domain is of those; drop it"]
        )
    said = foreign.said.get("domain", "format")
    if config.domain is not None or foreign.domain is not None:
        facts.take("domain", config.domain or foreign.domain, OPTION if config.domain else said)
        return []
    seen = "prob" if distributions(foreign.soft) else "logit"
    if config.accept_guess:
        facts.take("domain", seen, GUESS)
        return []
    why = "all rows are distributions" if seen == "prob" else "rows are no distributions"
    return [
        "whether its soft labels are logits or probabilities is not in the file; give --domain logit or prob "
        f"({why}: --domain {seen})"
    ]


def _settle_identity(facts: Facts, foreign: Foreign, config: ImportConfig) -> list[str]:
    """Which data set, which classes in which order, whether images may be mirrored."""
    problems = []
    if config.name is not None:
        facts.take("name", config.name, OPTION)
    elif "name" in foreign.stated:
        facts.take("name", foreign.stated["name"], foreign.said["name"])
    elif config.data is None:
        problems.append("which data set it was distilled from is not in the file; give --data SPEC, or --name NAME")
    if config.classes:
        facts.take("classes", class_names(config.classes), OPTION)
    elif config.data is None:
        if foreign.classes is None:
            problems.append(
                "its class names and their order are not in the file; give --data SPEC, or --classes A,B,..."
            )
        else:
            facts.take("classes", names_of_the_file(foreign), foreign.said.get("classes", FILE))
    if config.mirror is not None:
        facts.take("flip", config.mirror == "yes", OPTION)
    elif "flip" in foreign.stated:
        facts.take("flip", foreign.stated["flip"], foreign.said["flip"])
    elif config.data is None:
        problems.append(
            "whether a mirrored image is still of its class is not in the file; give --data SPEC, or --mirror yes or no"
        )
    return problems


def _likely(foreign: Foreign) -> list[str]:
    width = foreign.soft.shape[1] if foreign.soft is not None else None
    classes = width if foreign.labels is None else max(width or 0, int(foreign.labels.max()) + 1)
    channels, height, side = foreign.images.shape[1:]
    return likely_sets(channels, height, side, classes)

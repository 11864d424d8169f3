"""What `train-teacher` does by difficulty: scores computed or read, a curriculum, nets trained for scores alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle, NewSection
from ..config import TrainTeacherConfig
from ..curriculum import Fiex, choose, preset
from ..data._dataset import Dataset
from ..difficulty import order
from ..errors import UsageError
from ..events import Event, OnEvent
from ..nets._net import canonical, default_arch
from ..options import as_dict, build_many
from ..schedules import Recipe
from ..space import Space
from ..team import ALONE, Team
from ._score_files import open_scores, read_scores, score_source
from ._scores import Difficulty, ScoredNet, ScoreOptions, score_training_split, scoring_recipe

__all__ = ["Prepared", "Request", "prepare", "read_request"]

PARTS: Mapping[type[Any], str] = {
    Recipe: "of the nets that --experts trains, which are 0",
    ScoreOptions: "of scores computed by --scores NAME, which is not given",
    Fiex: "of --curriculum, which is not given",
}
"""What `--set` may name, and why it may not where that part does nothing."""
OF_EXPERTS = {
    "arch": "name the scoring nets' by --set score_arch=",
    "curriculum": "give it where experts are trained",
    "keep": "--set score_epoch= says how long scoring nets are trained",
    "keep_epochs": "give it where experts are trained",
    "first_expert": "give it where experts are trained",
}
"""Options that say nothing where no experts are trained, and what to do instead."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for, checked before any data are read."""

    recipe: Recipe
    """Of the nets whose checkpoints the bundle will hold."""
    source: str | Path | None
    """The name of a score to compute, or a file with scores."""
    options: ScoreOptions
    curriculum: Mapping[str, Any]
    """Settings of the curriculum."""
    scores_alone: bool
    """No nets are trained but those that score, and these are kept."""

    @property
    def score_epochs(self) -> int:
        """Epochs of each net that computes scores; 0 without any."""
        return self.options.score_epoch if isinstance(self.source, str) else 0

    def describe(self, config: TrainTeacherConfig) -> dict[str, Any]:
        """Everything that was asked for, without paths."""
        asked = {"recipe": as_dict(self.recipe), "score": as_dict(self.options), "fiex": dict(self.curriculum)}
        return asked | {"scores": _named(self, config)}

    def arch(self, config: TrainTeacherConfig, side: int) -> str:
        """The full name of the net whose checkpoints the bundle will hold."""
        return self.options.arch(side) if self.scores_alone else canonical(config.arch or default_arch(side))


@dataclass(frozen=True)
class Prepared:
    """What there is before experts are trained."""

    sections: tuple[NewSection, ...] = ()
    """The scores, and the nets that gave them where they are kept."""
    subset: Callable[[int], Tensor] | None = None
    """Indices into the training split that an epoch, from 0, sees; None for all of it."""
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Effective options, for the history."""
    inputs: tuple[Bundle, ...] = ()
    flops: int = 0


def read_request(config: TrainTeacherConfig, defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> Request:
    """Check everything that can be checked without data.

    Args:
        config: of the stage.
        defaults: of the recipe.
        settings: `--set`, shared by recipe, scores and curriculum.

    Raises:
        UsageError: a curriculum without scores; options of parts that do nothing; unknown or impossible settings.
    """
    problems: list[str] = []
    source: str | Path | None = config.scores  # computed, as long as nothing else is known of it
    try:
        source = None if config.scores is None else score_source(config.scores)
    except UsageError as error:
        problems += error.problems
    try:
        if config.curriculum is not None:
            preset(config.curriculum, classes=10, side=32)
    except UsageError as error:
        problems += error.problems
    optimizer = str(settings.get("optimizer", defaults.get("optimizer")))
    problems += [
        f"option '{name}' is of gsam, the optimiser is '{optimizer}', expected --optimizer gsam or no '{name}'"
        for name in ("rho", "alpha", "adaptive")
        if name in settings and optimizer != "gsam"
    ]
    if config.curriculum is not None and config.scores is None:
        problems.append("option 'curriculum' needs difficulty scores; add --scores el2n, or --scores FILE")
    alone = config.experts == 0 and config.scores is not None
    problems += _useless(config, source) if alone else []
    active: dict[type[Any], bool] = {
        Recipe: not alone,
        ScoreOptions: isinstance(source, str),
        Fiex: config.curriculum is not None,
    }
    names = {part: {field.name for field in dataclasses.fields(part)} for part in PARTS}
    idle = {name: why for part, why in PARTS.items() if not active[part] for name in names[part]}
    problems += [f"option '{name}' is {idle[name]}" for name in settings if name in idle]
    theirs = {name: value for name, value in settings.items() if name not in idle}
    parts = [part for part in PARTS if active[part]]
    made: dict[type[Any], Any] = {}
    try:
        recipe = defaults if active[Recipe] else {}
        made = dict(zip(parts, build_many(parts, {**recipe, **theirs}), strict=True))
    except UsageError as error:
        problems += error.problems
    if problems:
        raise UsageError.collect(problems)
    options = made.get(ScoreOptions, ScoreOptions())
    curriculum = {name: value for name, value in theirs.items() if name in names[Fiex]}
    return Request(made.get(Recipe, scoring_recipe(options)), source, options, curriculum, alone)


def prepare(
    request: Request,
    config: TrainTeacherConfig,
    dataset: Dataset,
    space: Space,
    device: torch.device,
    on_event: OnEvent,
    *,
    before: Sequence[ScoredNet] = (),
    on_net: Callable[[Sequence[ScoredNet]], None] | None = None,
    team: Team = ALONE,
) -> Prepared:
    """Compute or read the scores, and make the curriculum; the last three as in `score_training_split`.

    Raises:
        UsageError, BundleError, DataError: scores that cannot be read or are of other images; an impossible curriculum.
        DivergedError: a scoring net became non-finite.
    """
    if request.source is None:
        return Prepared()
    fiex = None
    if config.curriculum is not None:
        info = dataset.info
        fiex = choose(config.curriculum, request.curriculum, classes=len(info.classes), side=info.height)
    inputs: tuple[Bundle, ...] = ()
    checkpoints: tuple[NewSection, ...] = ()
    flops = 0
    if isinstance(request.source, str):
        scored = score_training_split(
            request.source,
            request.options,
            dataset,
            space,
            seed=config.seed,
            device=device,
            keep_nets=request.scores_alone,
            on_event=on_event,
            before=before,
            on_net=on_net,
            team=team,
        )
        difficulty, checkpoints, flops = scored.difficulty, scored.checkpoints, scored.flops
    else:
        opened = open_scores(request.source)
        difficulty = read_scores(opened, dataset)
        inputs = (opened,) if isinstance(opened, Bundle) else ()
    record = {"scores": _named(request, config), "score": _describe(request, difficulty, dataset)}
    subset = None
    if fiex is not None:
        record["fiex"] = as_dict(fiex)
        subset = _curriculum(fiex, difficulty, dataset, request.recipe.rounds, on_event)
    return Prepared((difficulty.section(), *checkpoints), subset, record, inputs, flops)


def _useless(config: TrainTeacherConfig, source: str | Path | None) -> list[str]:
    """What says nothing where no experts are trained."""
    default = {field.name: field.default for field in dataclasses.fields(config)}
    problems = [
        f"option '{name}' is of the nets that --experts trains, which are 0; {hint}"
        for name, hint in OF_EXPERTS.items()
        if getattr(config, name) != default[name]
    ]
    if isinstance(source, Path):
        problems.append("--experts 0 trains no nets and --scores FILE computes none, so that nothing is left to do")
    return problems


def _curriculum(
    fiex: Fiex, difficulty: Difficulty, dataset: Dataset, epochs: int, on_event: OnEvent
) -> Callable[[int], Tensor]:
    orders = order(difficulty.values, dataset.train.labels, len(dataset.info.classes))
    for note in fiex.notes(epochs):
        on_event(Event(phase="curriculum", message=f"warning: {note}"))
    return lambda epoch: fiex.subset(epoch, orders)


def _named(request: Request, config: TrainTeacherConfig) -> str | None:
    """As typed, but a file without its folder: paths of a machine are not published."""
    return request.source.name if isinstance(request.source, Path) else config.scores


def _describe(request: Request, difficulty: Difficulty, dataset: Dataset) -> dict[str, Any]:
    said: dict[str, Any] = {"name": difficulty.name}
    if isinstance(request.source, str):
        said |= as_dict(request.options) | {"score_arch": request.options.arch(dataset.info.height)}
    return said

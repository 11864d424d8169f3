"""What one evaluation trains: training sets x losses x optimisers, and how the optimisers compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import EvaluateConfig
from ..events import Event, OnEvent
from ..labels._labels import LabelSet
from ..protocols._protocol import LossChoice
from ..scores import paired_difference

__all__ = [
    "PRESETS",
    "SUITS",
    "Trial",
    "add_differences",
    "list_trials",
    "online_trials",
    "optimizer_settings",
    "optimizer_table",
    "resolve_losses",
    "suiting_loss",
]

SUITS = {"hard": "ce", "soft": "softce", "dense": "ladd", "fkd": "kl_t2", "online": "kl"}
"""The loss taken for a label kind when neither user nor protocol says one; refined labels take `gift`."""

PRESETS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "sgd": (
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    ),
    "adam": ({"lr": 1e-3, "momentum": 0.0, "weight_decay": 1e-4},),
    "adamw": ({"lr": 1e-3, "momentum": 0.0, "weight_decay": 1e-4},),
}
"""Step sizes of the optimisers that are compared: GIFT (arXiv:2405.14736) publishes none for SGD and Adam."""

AUGMENTED = frozenset({"fkd"})
"""Label kinds whose views are the augmentation: students see them as they are."""
NATIVE = "native"
"""`--loss native`: the loss that suits the label kind, also for refined labels (GIFT's "Refine" alone)."""
BUNDLE, RANDOM = "bundle", "random"
RANDOM_EQUAL, PLAIN_EQUAL = "random-equal-bytes", "plain-equal-bytes"


@dataclass(frozen=True)
class Trial:
    """One row: which images with which labels, which loss, which optimiser."""

    images: str
    """`bundle`; `random`, as many real images; or with equal bytes: `random-equal-bytes`, `plain-equal-bytes`."""
    labels: str
    """Kind of class labels."""
    loss: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Optimiser fields of the recipe; empty takes the protocol's."""
    privileged: str | None = None
    """Feature or attention labels beside them."""

    @property
    def label_kinds(self) -> str:
        """As `--labels` writes them: `soft`, `soft+feature`."""
        return "+".join(filter(None, (self.labels, self.privileged)))


def suiting_loss(kind: str, labels: LabelSet | None) -> str:
    """The loss of labels of a kind where nothing else is said."""
    return "gift" if labels is not None and labels.refined is not None else SUITS.get(kind, "softce")


def resolve_losses(
    config: EvaluateConfig,
    kind: str,
    labels: LabelSet | None,
    on_event: OnEvent,
    *,
    choice: LossChoice | None = None,
) -> tuple[str, ...]:
    """The losses to train with; `kl` among several optimisers brings `kl_t2` along.

    Args:
        config: names some, or none.
        kind, labels: of the class labels; a live teacher's are kind `online`, and not stored.
        on_event: told of what comes along.
        choice: the protocol's loss for labels that are not refined.
    """
    native = SUITS.get(kind, "softce") if choice is None else choice.name
    named = [native if name == NATIVE else name for name in config.loss]
    if not named:
        named = ["gift" if labels is not None and labels.refined is not None else native]
    if len(set(config.optimizer)) > 1 and "kl" in named and "kl_t2" not in named:
        named.insert(named.index("kl") + 1, "kl_t2")
        message = (
            "kl_t2 is scored beside kl: without T^2 its gradients are 1/T^2 as large, which SGD cannot make up for"
        )
        on_event(Event(phase="losses", message=message))
    return tuple(dict.fromkeys(named))


def optimizer_settings(names: Sequence[str], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Recipe fields of every optimiser named, at each of its preset step sizes; [{}], the protocol's, for none.

    A step size in the settings takes the place of the presets.
    """
    if not names:
        return [{}]
    return [
        {"optimizer": name, **preset}
        for name in dict.fromkeys(names)
        for preset in (PRESETS[name][:1] if "lr" in settings else PRESETS[name])
    ]


def list_trials(
    kind: str,
    losses: Sequence[str],
    recipes: Sequence[Mapping[str, Any]],
    *,
    baselines: bool,
    equal_bytes: bool,
    learned: bool = False,
    privileged: str | None = None,
    assigned: bool = False,
) -> Iterator[Trial]:
    """Every row, optimiser by optimiser, the bundle's first.

    A gain by feature or attention labels is claimed only beside the same images and class labels without them, and
    beside random images of equal bytes: these rows always come.

    Args:
        kind, privileged: class labels, and what is beside them.
        losses, recipes: of the rows.
        baselines, equal_bytes: which further rows are wanted.
        learned: the class labels were learned with the images, so that they cannot be made for random ones.
        assigned: teachers gave the labels beside them, and can give them to random images.
    """
    for recipe in recipes:
        yield from (Trial(BUNDLE, kind, loss, recipe, privileged) for loss in losses)
        if privileged is not None:
            yield from (Trial(BUNDLE, kind, loss, recipe) for loss in losses)
        if baselines:
            yield Trial(RANDOM, "hard", SUITS["hard"], recipe)
            if kind != "hard" and not learned:
                yield from (Trial(RANDOM, kind, loss, recipe) for loss in losses)
            if privileged is not None and assigned and not learned:
                yield from (Trial(RANDOM, kind, loss, recipe, privileged) for loss in losses)
        if equal_bytes or privileged is not None:
            yield Trial(RANDOM_EQUAL, "hard", SUITS["hard"], recipe)
        if equal_bytes:
            yield Trial(PLAIN_EQUAL, "hard", SUITS["hard"], recipe)


def online_trials(
    losses: Sequence[str],
    stored: tuple[str, str],
    recipes: Sequence[Mapping[str, Any]],
    *,
    baselines: bool,
) -> Iterator[Trial]:
    """Every row of an evaluation with a live teacher, optimiser by optimiser, the bundle's first.

    The same images with stored labels always come: what a live teacher adds is no merit of the bundle.

    Args:
        losses: of the live teacher's answers.
        stored: kind of the richest labels in the bundle, and their loss.
        recipes: of the rows.
        baselines: whether random images are scored, with hard labels and with the live teacher's.
    """
    for recipe in recipes:
        yield from (Trial(BUNDLE, "online", loss, recipe) for loss in losses)
        yield Trial(BUNDLE, *stored, recipe)
        if baselines:
            yield Trial(RANDOM, "hard", SUITS["hard"], recipe)
            yield from (Trial(RANDOM, "online", loss, recipe) for loss in losses)


def add_differences(results: Sequence[dict[str, Any]]) -> None:
    """Give every row but the first of its net and optimiser its paired difference to what it should be compared with.

    `bundle_minus_this` on baselines: the bundle under the same loss where there is one, else under the first.
    `first_loss_minus_this` on the bundle's rows of further losses. `privileged_minus_this` on its rows without feature
    or attention labels: what these labels add under the same loss. `online_minus_this` on its row of stored labels
    beside those of a live teacher.
    """
    for result in results:
        rows = [other for other in results if _setting(other) == _setting(result) and other["images"] == BUNDLE]
        first = rows[0]
        group = [other for other in rows if other["labels"] == first["labels"]]
        same = next((other for other in group if _loss(other) == _loss(result)), first)
        if result["images"] != BUNDLE:
            result["bundle_minus_this"] = _difference(same, result)
        elif result["labels"] != first["labels"]:
            key = "online_minus_this" if first["labels"] == "online" else "privileged_minus_this"
            result[key] = _difference(same, result)
        elif result is not first:
            result["first_loss_minus_this"] = _difference(first, result)


def optimizer_table(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How much each loss depends on the optimiser, one entry per net, training set and loss; accuracies as fractions.

    `best` and `worst`: by optimiser, the mean accuracy at its better and its worse step size. `mean` and `least`: over
    optimisers, of the better ones. `robustness_gap`: the best cell of all less the worst one. The better step size is
    read off test accuracies, for every loss alike: compare these entries with each other, not with single rows.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["arch"], result["images"], result["labels"], _loss(result)), []).append(result)
    table = []
    for (arch, images, labels, loss), rows in groups.items():
        cells: dict[str, list[float]] = {}
        for row in rows:
            cells.setdefault(row["recipe"]["optimizer"], []).append(row["accuracy"]["mean"])
        best = {name: max(means) for name, means in cells.items()}
        worst = {name: min(means) for name, means in cells.items()}
        table.append(
            {
                "arch": arch,
                "images": images,
                "labels": labels,
                "loss": loss,
                "best": best,
                "worst": worst,
                "mean": sum(best.values()) / len(best),
                "least": min(best.values()),
                "robustness_gap": max(best.values()) - min(worst.values()),
            }
        )
    return table


def _loss(result: Mapping[str, Any]) -> str:
    return str(result["loss"]["name"])


def _setting(result: Mapping[str, Any]) -> tuple[Any, ...]:
    recipe = result["recipe"]
    return result["arch"], recipe["optimizer"], recipe["lr"]


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    return paired_difference(ours["accuracy"]["values"], theirs["accuracy"]["values"])

"""GLaD: distillation in the latent space of a generator (Cazenavette et al., CVPR 2023, arXiv:2305.01649)."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from torch import Generator

from .. import _plugins
from ..errors import DivergedError, UsageError
from ..generators._find import load_generator
from ..generators._generator import Loaded
from ..generators._probe import choose_classes, probe, rates_of
from ..options import as_dict, opt
from ..space import Space
from ._latents import Latents
from ._method import Distilled, Method, Problem, State

__all__ = ["METHOD", "Glad"]

DEFAULT_HOST = "dm"
TRAJECTORIES = {
    "steps": 1000, "syn_steps": 20, "expert_epochs": 3, "max_start_epoch": 5, "lr_lr": 1e-6, "syn_lr": 0.01
}  # fmt: skip
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "dm": {"steps": 1000},
    "dc": {"steps": 1000, "outer": 1, "inner": 1, "lr_net": 0.01, "augment": "dsa"},
    "dsa": {"steps": 1000, "outer": 1, "inner": 1, "lr_net": 0.01},
    "mtt": TRAJECTORIES,
    "tesla": TRAJECTORIES,
}
"""Published settings of a host inside GLaD, which replace its own defaults."""
RATES = {
    "dm": {"f": 10.0, "w": 1e-2},
    "dc": {"f": 1.0, "w": 1e-3},
    "dsa": {"f": 1.0, "w": 1e-3},
    "trajectories": {"f": 1e4, "w": 10.0},
}
"""Published step sizes by name of latent."""
ABOUT = ("check", "memory", "notes", "shares_steps")
"""Optional methods of hosts: what cannot work, what a problem needs in bytes, what a user should know first, whether
processes share a step."""
REPLACED = {"init"}
"""Options of hosts that have no meaning here: latents start from the generator."""


@dataclass(frozen=True, kw_only=True)
class Glad:
    """Another method, the host, on latents: it takes decoded images and gives the gradient with respect to them.

    The generator pulls that gradient back chunk by chunk: exactly what one backward pass through both would give. Every
    option of the host is an option here under its own name (`ddlabel methods HOST`), with GLaD's published values for
    defaults where there are any. The result is decoded images, usable without the generator. `docs/glad.md` says how to
    bring a generator.

    Differs from the authors' code in: any generator instead of StyleGAN-XL alone; the weights of the generator are
    never learned; `steps` steps where theirs has one more; on trajectories, `host=tesla` has their gradient, and
    `host=mtt` the exact one.
    """

    HOST: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    host: str = opt(DEFAULT_HOST, "optimising method that gives the gradient; its options are given by their own names")
    generator: str = opt(
        "linear", "plugin ('ddlabel methods' lists them), MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE, which runs that code"
    )
    class_ids: tuple[int, ...] | None = opt(
        None, "the generator's class for each class of the data, comma-separated; auto where both have the same", min=0
    )
    gen_batch: int = opt(10, "images decoded at once", min=1)
    lr_f: float | None = opt(
        None, "SGD step on latent 'f'; auto is the generator's, or as published for the host", min=0
    )
    lr_w: float | None = opt(
        None, "SGD step on latent 'w'; auto is the generator's, or as published for the host", min=0
    )

    def __post_init__(self) -> None:
        """Raises UsageError for a host that this class was not made for."""
        if self.host.replace("_", "-") != self.HOST:
            raise UsageError(
                f"option 'host' is '{self.host}', these are the options of '{self.HOST}'",
                field="host",
                hint=f"in Python, build METHOD.for_settings({{'host': '{self.host}'}})",
            )

    @classmethod
    def for_settings(cls, settings: Mapping[str, Any]) -> type[Glad]:
        """The class with the options of the host that the settings name.

        Raises:
            UsageError: an unknown host, or one that does not optimise images.
        """
        del cls
        return _with_host(str(settings.get("host", DEFAULT_HOST)).replace("_", "-"))

    @cached_property
    def method(self) -> Method:
        """The host with its own options."""
        return _make_host(self)

    def total_steps(self, problem: Problem) -> int:
        """Those of the host."""
        return self.method.total_steps(self._on_latents(problem))

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """The state of the host, with latents where it would have images.

        Raises:
            UsageError: the generator cannot be found, does not keep its contract, or does not fit the data.
        """
        return self.method.prepare(self._on_latents(problem), generator)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """One step of the host.

        Raises:
            UsageError: the state was made with another generator.
            DivergedError: a latent became non-finite.
        """
        within = self._on_latents(problem)
        _canvas(within).check(state)
        moved, metrics = self.method.step(within, state, index, generator)
        for name, tensor in moved.items():
            if name.startswith("latent.") and not bool(torch.isfinite(tensor).all()):
                latent = name.removeprefix("latent.")
                option = f"lr_{latent}" if latent in ("f", "w") else "lr_images"
                rate = _canvas(within).rates.get(latent, "the host's")
                raise DivergedError(
                    f"latent '{latent}' became non-finite at step {index + 1} of {self.total_steps(problem)}",
                    field=option,
                    hint=f"lower --set {option} (now {rate})",
                )
        return moved, metrics

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The decoded images, and the step size of every latent."""
        within = self._on_latents(problem)
        canvas = _canvas(within)
        canvas.check(state)
        distilled = self.method.finish(within, state)
        latents = canvas.names(state)
        rates = {f"lr_{name}": canvas.rates[name] for name in latents if name in canvas.rates}
        unused = {"lr_images"} if len(rates) == len(latents) else set()
        metrics = {name: value for name, value in distilled.metrics.items() if name not in unused}
        return dataclasses.replace(distilled, metrics={**metrics, **rates})

    def record(self, problem: Problem) -> dict[str, Any]:
        """For the history: options without folders, and who the generator is."""
        loaded = _canvas(self._on_latents(problem)).loaded
        return {"options": as_dict(self) | {"generator": loaded.name}, "generator": loaded.identity()}

    def _on_latents(self, problem: Problem) -> Problem:
        """The problem with its canvas, made once for each problem: loading and probing take time."""
        held: tuple[Problem, Problem] | None = self.__dict__.get("_held")
        if held is None or held[0] is not problem:
            held = problem, dataclasses.replace(problem, canvas=self._make_canvas(problem))
            self.__dict__["_held"] = held
        return held[1]

    def _make_canvas(self, problem: Problem) -> Latents:
        channels, height, width = problem.pixels.shape[1:]
        loaded = load_generator(self.generator, channels=channels, resolution=height, num_classes=len(problem.classes))
        loaded.move(problem.device)
        classes = choose_classes(loaded, self.class_ids, len(problem.classes))
        latents = probe(loaded, classes, (channels, height, width), problem.device)
        return Latents(
            loaded,
            _space_on(problem.space, problem.device),
            classes=classes.to(problem.device),
            chunk=self.gen_batch,
            rates=self._rates(loaded, latents),
        )

    def _rates(self, loaded: Loaded, latents: Collection[str]) -> dict[str, float]:
        """By name of latent: as given, else the generator's, else as published.

        Raises:
            UsageError: a rate of a latent that the generator does not have.
        """
        given = {name: rate for name, rate in (("f", self.lr_f), ("w", self.lr_w)) if rate is not None}
        for name, rate in given.items():
            if name not in latents:
                raise UsageError(
                    f"option 'lr_{name}' is {rate}, generator '{loaded.name}' has no latent '{name}' (it has: "
                    f"{', '.join(latents)})",
                    field=f"lr_{name}",
                    hint="latents other than 'f' and 'w' take 'lr_images'",
                )
        published = RATES.get(_family(self.HOST), {})
        rates = {**published, **rates_of(loaded, latents), **given}
        return {name: rate for name, rate in rates.items() if name in latents}


def _canvas(problem: Problem) -> Latents:
    if not isinstance(problem.canvas, Latents):
        raise TypeError("the problem of a host has latents for its canvas")
    return problem.canvas


def _space_on(space: Space, device: torch.device) -> Space:
    """The space with its whitening on the device, so that it is not copied for every chunk."""
    if space.zca is None:
        return space
    mean, matrix, inverse = (tensor.to(device) for tensor in (space.zca.mean, space.zca.matrix, space.zca.inverse))
    return dataclasses.replace(space, zca=dataclasses.replace(space.zca, mean=mean, matrix=matrix, inverse=inverse))


def _host_class(name: str) -> type[Any]:
    """Raises UsageError: unknown, or without images to optimise."""
    if name == "glad":
        raise UsageError("option 'host' is 'glad', expected another method", field="host")
    host: type[Any] = _plugins.load("distill", name, "METHOD")
    if "backbones" in host.needs:
        raise UsageError(
            f"option 'host' is '{name}', which recovers pixels from trained nets, expected a matching method",
            field="host",
            hint=f"use --set host={DEFAULT_HOST}",
        )
    if "lr_images" not in {field.name for field in dataclasses.fields(host)}:
        raise UsageError(
            f"option 'host' is '{name}', which selects real images and has no gradient, expected an optimising method",
            field="host",
            hint=f"use --set host={DEFAULT_HOST}",
        )
    return host


def _family(name: str) -> str:
    return "trajectories" if "trajectories" in _host_class(name).needs else name


@cache
def _with_host(name: str) -> type[Glad]:
    """`Glad` with the options of a host beside its own, in one flat record."""
    host = _host_class(name)
    hints = typing.get_type_hints(host)
    own = {field.name for field in dataclasses.fields(Glad)}
    settings = SETTINGS.get(name, {})
    fields: list[Any] = [("host", str, opt(name, _help_of("host")))]
    for field in dataclasses.fields(host):
        if field.name in own:
            raise TypeError(f"method '{name}' has an option '{field.name}', which glad has for itself")
        if field.name in REPLACED:
            continue
        metadata = dict(field.metadata)
        if field.name == "lr_images":
            metadata["help"] = (
                "SGD step on latents other than 'f' and 'w' without a rate of their own; auto is the host's"
            )
        default = settings.get(field.name, field.default)
        fields.append((field.name, hints[field.name], dataclasses.field(default=default, metadata=metadata)))
    namespace = {"HOST": name, "needs": host.needs, "__doc__": Glad.__doc__, "__module__": __name__}
    namespace |= {name: _delegate(name) for name in ABOUT if hasattr(host, name)}
    if hasattr(host, "memory_knobs"):
        namespace["memory_knobs"] = host.memory_knobs
    return dataclasses.make_dataclass(
        f"Glad{host.__name__}", fields, bases=(Glad,), namespace=namespace, frozen=True, kw_only=True
    )


def _delegate(name: str) -> Callable[[Glad, Problem], Any]:
    """What only some hosts have, so that glad has it around them alone."""

    def ask(glad: Glad, problem: Problem) -> Any:
        return getattr(glad.method, name)(glad._on_latents(problem))

    return ask


def _help_of(name: str) -> str:
    return next(str(field.metadata["help"]) for field in dataclasses.fields(Glad) if field.name == name)


def _make_host(glad: Glad) -> Method:
    host = _host_class(glad.HOST)
    fields = {field.name: field for field in dataclasses.fields(host)}
    options = {name: getattr(glad, name) for name in fields if name not in REPLACED}
    if "init" in fields and "noise" in (fields["init"].metadata.get("choices") or ()):
        options["init"] = "noise"
    made: Method = host(**options)
    return made


METHOD = _with_host(DEFAULT_HOST)

"""What a generator of images is, and how one is found: by name, in a module, or in a file of the user's."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from .. import _plugins
from ..errors import UsageError

__all__ = ["ImageGenerator", "Loaded", "load_generator"]

ATTRIBUTES = ("resolution", "num_classes", "output_range")
METHODS = ("init_latents", "decode")


class ImageGenerator(Protocol):
    """Images from latents, frozen. A plugin of the room, or any object of the user's with these members.

    Optional members: `default_lrs() -> dict[str, float]`, step sizes by name of latent; `project_(latents)`, called
    after each step to change the new latents in place; `to(device)`; `state_dict()`, tensors that identify it.

    `GENERATOR` of a plugin is called with `channels`, `resolution` and `num_classes` of the data at hand, which it may
    ignore.
    """

    resolution: int
    """Images are square, this many pixels a side."""
    num_classes: int
    """Labels are 0 to `num_classes` - 1."""
    output_range: tuple[float, float]
    """Values of `decode` that are black and white."""

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Latents to start from, each (n, ...) and of floating point.

        Args:
            labels: (n,) int64, on the device of the run.
            generator: on the CPU: draw there, then move. The same generator must give the same latents.
        """
        ...

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Images (n, c, h, w): differentiable in every latent, each from its own latents and label alone."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A generator and who it is."""

    generator: ImageGenerator
    name: str
    """As typed, without folders."""
    digest: bytes
    """sha256 of its weights, or of the source file when it has no `state_dict`."""
    hashed: str
    """What the digest is of: `weights` or `source`."""

    def identity(self) -> dict[str, str]:
        """For the history of a bundle."""
        return {"name": self.name, "sha256": self.digest.hex(), "hashed": self.hashed}


def load_generator(text: str, *, channels: int, resolution: int, num_classes: int) -> Loaded:
    """Find a generator.

    Args:
        text: `NAME` of a plugin, `package.module:attribute`, or `FILE.py:attribute`. The attribute is a generator or
            is called without arguments to make one. Naming a module or a file runs its code.
        channels, resolution, num_classes: of the data, for plugins that adapt.

    Raises:
        UsageError: no such plugin, file, module or attribute; the code cannot be imported (the cause is chained);
            members are missing.
    """
    if ":" not in text:
        with _noted(text):
            make = _plugins.load("generators", text, "GENERATOR")
            generator = make(channels=channels, resolution=resolution, num_classes=num_classes)
        source = sys.modules[make.__module__]
    else:
        where, _, attribute = text.rpartition(":")
        source = _from_file(where) if where.endswith(".py") else _from_module(where)
        found = _attribute(source, attribute, text)
        with _noted(text):
            generator = found() if _is_factory(found) else found
    _check_members(generator, text)
    if isinstance(generator, nn.Module):
        generator.eval().requires_grad_(False)
    digest, hashed = _digest(generator, source)
    return Loaded(generator, _name(text), digest, hashed)


def _name(text: str) -> str:
    return text.replace("\\", "/").rsplit("/", 1)[-1]


@contextmanager
def _noted(text: str) -> Iterator[None]:
    """Errors of the user's code keep their traceback and gain the place."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while making the generator '{text}'")
        raise


def _from_module(name: str) -> ModuleType:
    try:
        with _noted(name):
            return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise _cannot_import(name, error, "install its package, or name a file as FILE.py:ATTRIBUTE") from error


def _from_file(file: str) -> ModuleType:
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"generator file '{file}' does not exist, expected FILE.py:ATTRIBUTE", field="generator")
    name = f"ddlabel_generator_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"generator file '{file}' is no Python module", field="generator")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with _noted(file):
            spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise _cannot_import(file, error, "install what it imports") from error
    return module


def _cannot_import(where: str, error: Exception, hint: str) -> UsageError:
    kind = type(error).__name__
    return UsageError(f"generator '{where}' cannot be imported: {kind}: {error}", field="generator", hint=hint)


def _attribute(module: ModuleType, name: str, text: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(sorted(each for each in vars(module) if not each.startswith("_")))
            raise UsageError(
                f"generator '{text}': no '{name}' in it (it has: {known or 'nothing'})",
                field="generator",
                hint="name an object with the members of docs/glad.md, or what makes one",
            )
        found = getattr(found, part)
    return found


def _is_factory(found: Any) -> bool:
    return isinstance(found, type) or (callable(found) and not hasattr(found, "decode"))


def _check_members(generator: Any, text: str) -> None:
    """All missing or ill-formed members in one error."""
    problems = [f"has no '{name}'" for name in (*ATTRIBUTES, *METHODS) if not hasattr(generator, name)]
    problems += [
        f"'{name}' is no method"
        for name in (*METHODS, "default_lrs", "project_")
        if hasattr(generator, name) and not callable(getattr(generator, name))
    ]
    for name in ("resolution", "num_classes"):
        value = getattr(generator, name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            problems.append(f"'{name}' is {value!r}, expected a number of at least 1")
    if hasattr(generator, "output_range") and not _is_range(generator.output_range):
        problems.append(f"'output_range' is {generator.output_range!r}, expected (black, white) such as (-1.0, 1.0)")
    if problems:
        raise UsageError(
            f"generator '{text}' ({type(generator).__name__}) " + "; ".join(problems),
            field="generator",
            hint="docs/glad.md lists what a generator has",
        )


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, tuple | list) and all(isinstance(each, int | float) for each in value)
    return numbers and len(value) == 2 and value[1] - value[0] > 0


def _digest(generator: Any, source: ModuleType) -> tuple[bytes, str]:
    state: Callable[[], Mapping[str, Tensor]] | None = getattr(generator, "state_dict", None)
    tensors = {name: tensor for name, tensor in state().items() if isinstance(tensor, Tensor)} if state else {}
    if tensors:
        digest = hashlib.sha256()
        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.digest(), "weights"
    file = getattr(source, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else _name(source.__name__).encode()).digest(), "source"

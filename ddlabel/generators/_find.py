"""How a generator is found: by name, in a module, or in a file of the user's; and what identifies it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .. import _plugins
from ..errors import UsageError
from ._generator import Loaded, running

__all__ = ["load_generator"]

ATTRIBUTES = ("resolution", "num_classes", "output_range")
METHODS = ("init_latents", "decode")
OPTIONAL = ("default_lrs", "project_")
MISSING = object()


def load_generator(text: str, *, channels: int, resolution: int, num_classes: int) -> Loaded:
    """Find a generator.

    Args:
        text: `NAME` of a plugin, `package.module:attribute`, or `FILE.py:attribute`. The attribute is a generator or
            is called without arguments to make one. Naming a module or a file runs its code.
        channels, resolution, num_classes: of the data, for plugins that adapt.

    Raises:
        UsageError: no such plugin, file, module or attribute; its code raised something (the cause is chained);
            members are missing.
    """
    if ":" not in text:
        make = _plugins.load("generators", text, "GENERATOR")
        source = sys.modules[make.__module__]
        with running(text, "'GENERATOR'"):
            generator = make(channels=channels, resolution=resolution, num_classes=num_classes)
    else:
        where, _, attribute = text.rpartition(":")
        if not where:
            raise UsageError(
                f"option 'generator' is '{text}', which names no module and no file",
                field="generator",
                hint="type NAME, MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE",
            )
        source = _from_file(where) if where.endswith(".py") else _from_module(where)
        found = _attribute(source, attribute, text)
        with running(text, f"'{attribute}'"):
            generator = found() if _is_factory(found) else found
    _check_members(generator, text)
    if isinstance(generator, nn.Module):
        with running(text, "'eval' or 'requires_grad_'"):
            generator.eval()
            generator.requires_grad_(False)
    with running(text, "'state_dict'"):
        digest, hashed = _digest(generator, source)
    return Loaded(generator, _name(text), digest, hashed)


def _name(text: str) -> str:
    return text.replace("\\", "/").rsplit("/", 1)[-1]


def _from_module(name: str) -> ModuleType:
    with running(name, "importing it", missing="install its package, or name a file as FILE.py:ATTRIBUTE"):
        return importlib.import_module(name)


def _from_file(file: str) -> ModuleType:
    path = os.path.expanduser(file)
    if not os.path.isfile(path):
        raise UsageError(f"generator file '{file}' does not exist, expected FILE.py:ATTRIBUTE", field="generator")
    name = f"ddlabel_generator_{hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"generator file '{file}' is no Python module", field="generator")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with running(file, "importing it", missing="install what it imports"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _attribute(module: ModuleType, name: str, text: str) -> Any:
    found: Any = module
    for part in name.split("."):
        with running(text, f"'{name}'"):
            found = getattr(found, part, MISSING)
        if found is MISSING:
            known = ", ".join(sorted(each for each in vars(module) if not each.startswith("_")))
            raise UsageError(
                f"generator '{text}': no '{name}' in it (it has: {known or 'nothing'})",
                field="generator",
                hint="name an object with the members of docs/glad.md, or what makes one",
            )
    return found


def _is_factory(found: Any) -> bool:
    return isinstance(found, type) or (callable(found) and not hasattr(found, "decode"))


def _check_members(generator: Any, text: str) -> None:
    """All missing or ill-formed members in one error."""
    members = {}
    for name in (*ATTRIBUTES, *METHODS, *OPTIONAL):
        with running(text, f"'{name}'"):
            members[name] = getattr(generator, name, MISSING)
    problems = [f"has no '{name}'" for name in (*ATTRIBUTES, *METHODS) if members[name] is MISSING]
    had = {name: member for name, member in members.items() if member is not MISSING}
    problems += [f"'{name}' is no method" for name in (*METHODS, *OPTIONAL) if not callable(had.get(name, callable))]
    for name in ("resolution", "num_classes"):
        value = had.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            problems.append(f"'{name}' is {value!r}, expected a number of at least 1")
    if "output_range" in had and not _is_range(had["output_range"]):
        problems.append(f"'output_range' is {had['output_range']!r}, expected (black, white) such as (-1.0, 1.0)")
    if problems:
        raise UsageError(
            f"generator '{text}' ({type(generator).__name__}) " + "; ".join(problems),
            field="generator",
            hint="docs/glad.md lists what a generator has",
        )


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, tuple | list) and all(isinstance(each, int | float) for each in value)
    return numbers and len(value) == 2 and 0 < value[1] - value[0] < float("inf")


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

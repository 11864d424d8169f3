"""Weights that nets start from: files of tensors by name, safetensors or torch's, of which nothing is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import TrainTeacherConfig
from ..errors import DataError, UsageError
from ..fsio import open_input
from ..header import FORMAT_KEY
from ..nets._dropout import Dropout
from ..nets._net import Net

__all__ = ["Weights", "check_untrained", "read_weights"]

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
TORCH_PROTOCOL = 2
"""Of the pickles in files that torch writes; any other is of something else."""
WRAPPERS = ("state_dict", "model")
"""Names under which training scripts store the tensors beside other things."""
PARALLEL = "module."
"""What torch's parallel training puts before every name."""
COUNTER = ".num_batches_tracked"
"""Buffers that files of old versions of torch do not have; they start at 0."""
IDLE = ("experts", "keep_epochs", "optimizer", "scores", "curriculum")
"""Options that say nothing where weights are kept as they are."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32)
SHOWN = 3
HOW = "save them by torch.save(net.state_dict(), FILE), or as safetensors"
BROKEN = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, EOFError,
    pickle.UnpicklingError, struct.error,
)  # fmt: skip
"""What torch raises on files that are none of its own."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, read when they are used."""

    name: str
    """Of the file, without its folder."""
    sha256: str
    """Of the file."""
    tensors: Mapping[str, Tensor]

    def describe(self) -> dict[str, str]:
        """For the history: paths of a machine are not published."""
        return {"file": self.name, "sha256": self.sha256}

    def check(self, net: Net, arch: str) -> None:
        """Refuse what does not fit a net exactly, before any work.

        Counters of batch norm and the states of dropout may be missing; floating-point numbers of any size are taken.

        Args:
            net: on any device, also meta.
            arch: its name.

        Raises:
            UsageError: tensors are missing, too many, or of other shapes or kinds; naming the first of each.
            DataError: a number is not finite.
        """
        wanted = net.state_dict()
        optional = {f"{name}.state" for name, module in net.named_modules() if isinstance(module, Dropout)}
        optional |= {name for name in wanted if name.endswith(COUNTER)}
        missing = [f"'{name}'" for name in wanted if name not in self.tensors and name not in optional]
        unexpected = [f"'{name[:80]}'" for name in self.tensors if name not in wanted]
        shared = [name for name in wanted if name in self.tensors]
        other = [name for name in shared if not _alike(self.tensors[name], wanted[name])]
        problems = [*_first("has no", missing), *_first("has the unknown", unexpected)]
        problems += _first("has", [_compare(name, self.tensors[name], wanted[name]) for name in other])
        if problems:
            raise UsageError(
                f"weights '{self.name}' do not fit net '{arch}': the file {', '.join(problems)}",
                field="weights",
                hint=_hint(net, other, missing or unexpected),
            )
        for name in shared:
            if not bool(torch.isfinite(self.tensors[name]).all()):
                raise DataError(f"weights '{self.name}': '{name}' is not finite", field="weights", hint="use others")

    def put(self, net: Net) -> None:
        """Copy the tensors into a net on the CPU that they fit; what the file has not stays as it is.

        Of whole numbers only counters are taken: all others are constants of the net, or its own draws.
        """
        with torch.no_grad():
            for name, value in net.state_dict().items():
                if name in self.tensors and (value.is_floating_point() or name.endswith(COUNTER)):
                    value.copy_(self.tensors[name])


def read_weights(text: str) -> Weights:
    """Open a file of weights.

    Args:
        text: the path of a safetensors file, or of one by `torch.save` that holds tensors by name, alone or under
            `state_dict` or `model`. Told apart by their first bytes; memory is mapped where the format allows.

    Raises:
        UsageError: no such file.
        DataError: the file holds no weights, or is damaged, or holds other Python objects, which are not loaded.
        ResourceError: it may not be read.
    """
    path = Path(text)
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "no such file"
        raise UsageError(f"option 'weights' is '{text[:200]}', {what}, expected a file of weights", field="weights")
    with open_input(path) as file:
        head = file.read(9)
        digest = hashlib.sha256(head)
        while chunk := file.read(2**20):
            digest.update(chunk)
    loaded = _load_torch(path, head) if head.startswith((ZIP, PICKLE)) else _load_safetensors(path, head)
    return Weights(path.name, digest.hexdigest(), _tensors(path, loaded))


def check_untrained(config: TrainTeacherConfig, settings: Mapping[str, Any]) -> None:
    """Refuse what says nothing where no net is trained, or where none starts from the weights.

    Raises:
        UsageError: everything that is wrong with the options taken together.
    """
    problems = []
    if config.weights is None and not config.epochs:
        problems.append("option 'epochs' is 0 and there are no --weights, expected epochs to train or weights to keep")
    elif not config.epochs:
        default = {field.name: field.default for field in dataclasses.fields(config)}
        idle = [name for name in IDLE if getattr(config, name) != default[name]]
        idle += ["keep"] * (config.keep not in {(), (0,)})
        problems += [
            f"option '{name}' is of training, and --epochs 0 trains nothing"
            for name in (*idle, *(f"set {setting}" for setting in settings))
        ]
    elif config.weights is not None and config.experts == 0:
        problems.append("option 'weights' is of the nets that --experts trains, which are 0")
    if problems:
        raise UsageError.collect(problems)


def _load_safetensors(path: Path, head: bytes) -> Any:
    from safetensors import SafetensorError, safe_open

    if len(head) < 9 or head[8:] != b"{":
        raise DataError(f"'{path}' is no file of weights, expected .safetensors, .pt or .pth", field="weights")
    try:
        with safe_open(path, framework="pt") as file:
            if FORMAT_KEY in (file.metadata() or {}):
                raise DataError(
                    f"'{path}' is a bundle, expected a file of weights",
                    field="weights",
                    hint="the nets of a teacher bundle are used by --teacher",
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, *BROKEN) as error:
        raise DataError(f"'{path}' is a damaged safetensors file: {_line(error)}", field="weights") from error


def _load_torch(path: Path, head: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except pickle.UnpicklingError as error:
        foreign = head.startswith(PICKLE) and head[1] > TORCH_PROTOCOL
        if "global" not in str(error).lower() and not foreign:
            raise DataError(f"'{path}' is a damaged file of weights, or none", field="weights", hint=HOW) from error
        raise DataError(
            f"'{path}' holds Python objects beside tensors, which are not loaded", field="weights", hint=HOW
        ) from error
    except BROKEN as error:
        raise DataError(f"'{path}' is a damaged file of weights, or none", field="weights", hint=HOW) from error


def _tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    """Tensors by name, out of what was loaded."""
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    named = isinstance(loaded, Mapping) and all(isinstance(name, str) for name in loaded)
    if not (named and loaded and all(isinstance(value, Tensor) for value in loaded.values())):
        raise DataError(f"'{path}' holds no tensors by name, expected a state dict", field="weights", hint=HOW)
    if all(name.startswith(PARALLEL) for name in loaded):
        return {name.removeprefix(PARALLEL): value for name, value in loaded.items()}
    return dict(loaded)


def _alike(ours: Tensor, wanted: Tensor) -> bool:
    """Whether one can be copied into the other without loss of anything but digits."""
    dense = ours.layout == torch.strided and ours.shape == wanted.shape
    return dense and ours.dtype in (FLOATS if wanted.is_floating_point() else INTEGERS)


def _compare(name: str, ours: Tensor, wanted: Tensor) -> str:
    return f"'{name}' as {_shown(ours)}, expected {_shown(wanted)}"


def _shown(tensor: Tensor) -> str:
    shape = " x ".join(map(str, tensor.shape)) or "one number"
    return f"{shape} of {str(tensor.dtype).removeprefix('torch.')}"


def _first(what: str, items: Sequence[str]) -> Iterator[str]:
    """At most one phrase that names the first items."""
    if items:
        more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        yield f"{what} {', '.join(items[:SHOWN])}{more}"


def _hint(net: Net, other: Sequence[str], differing: Sequence[str]) -> str:
    """What to do: another number of classes differs in the last parameters alone."""
    last = [name for name, _parameter in net.named_parameters()][-2:]
    if not differing and set(other) <= set(last):
        return "its classes are others: use data of the classes that the file was trained on; heads are never cut"
    return "name the net of the file by --arch; torchvision's own are resnet18-plain, resnet50, mobilenet-v2, ..."


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

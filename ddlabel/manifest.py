"""The manifest: what a bundle says of itself, as canonical JSON in one zstd frame.

`Manifest` and `Section` are views of that JSON: keys of newer minor versions are kept and written back. The rules are
in `manifest_rules`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from . import __version__, digests
from .digests import canonical_json
from .errors import BundleError, DivergedError
from .header import strict_json
from .manifest_rules import FORMAT, MANIFEST_SPEC, storage_problems, structure_problems

__all__ = ["Manifest", "Section", "normalise", "printable"]

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Control, escape, bidirectional and invisible characters."""


class Section:
    """One entry of the section table."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record

    @property
    def name(self) -> str:
        """Unique name, such as `labels.dense`."""
        return str(self.record["name"])

    @property
    def kind(self) -> str:
        """images, labels, transform, student, scores, teacher, trajectory, state, or one of a newer version."""
        return str(self.record["kind"])

    @property
    def role(self) -> str | None:
        """Label kind (hard, soft, dense), or what a score is of."""
        return self.record.get("role")

    @property
    def codec(self) -> Mapping[str, Any] | None:
        """Name and parameters of the label codec."""
        return self.record.get("codec")

    @property
    def domain(self) -> str | None:
        """What label values are: logit, prob, logprob, or unit (L2-normalised)."""
        return self.record.get("domain")

    @property
    def views(self) -> int | None:
        """Labelled views per image."""
        return self.record.get("views")

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the section's kind needs to know to use it."""
        parameters: Mapping[str, Any] = self.record["parameters"]
        return parameters

    @property
    def range(self) -> str | None:
        """How images are stored: `uint8` pixels, or `float32` in model-input space."""
        return self.record.get("range")

    @property
    def of(self) -> str | None:
        """Digest of the images that these labels were made for."""
        return self.record.get("of")

    @property
    def teacher(self) -> list[str]:
        """Content digests of the teachers that made these labels."""
        return list(self.record.get("teacher", ()))

    @property
    def refined(self) -> Mapping[str, Any] | None:
        """Which refinement made these labels, with its options."""
        return self.record.get("refined")

    @property
    def stale(self) -> bool:
        """Whether the images changed since these labels were made."""
        return bool(self.record.get("stale", False))

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Records of the section's tensors by name: dtype, shape, bytes, sha256, and `packed` where compressed."""
        tensors: Mapping[str, Any] = self.record["tensors"]
        return tensors


class Manifest:
    """A checked manifest; treat it as read-only."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    @classmethod
    def parse(cls, data: bytes, source: str) -> Manifest:
        """Parse and check canonical JSON.

        Raises:
            BundleError: anything malformed, naming the field; a newer major version.
        """
        document = strict_json(data, source, "manifest")
        _check_version(document, source)
        _refuse(MANIFEST_SPEC.problems(document, ""), source)
        _refuse(structure_problems(document), source)
        _refuse(storage_problems(document), source)
        return cls(document)

    @property
    def format(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.document["format"]
        return major, minor

    @property
    def kind(self) -> str:
        """distilled, teacher or partial."""
        return str(self.document["kind"])

    @property
    def requires(self) -> list[str]:
        """Features a reader must know to use some section."""
        return list(self.document["requires"])

    @property
    def data(self) -> Mapping[str, Any] | None:
        """The data set the bundle was made of; None when unknown."""
        data: Mapping[str, Any] | None = self.document["data"]
        return data

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The section table, in file order."""
        return tuple(Section(record) for record in self.document["sections"])

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """One entry per stage, oldest first."""
        return list(self.document["history"])

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """Scores, oldest first."""
        return list(self.document["evaluations"])

    @property
    def storage(self) -> Mapping[str, Any]:
        """Where the bytes of the file go."""
        storage: Mapping[str, Any] = self.document["storage"]
        return storage

    @cached_property
    def content(self) -> str:
        """Content digest: the identity of what the bundle says and holds."""
        return digests.content_digest(self.document)

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.document)


def normalise(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A copy of a new manifest as a reader will see it, checked but for its storage report.

    Raises:
        BundleError: something that a reader would refuse.
        DivergedError: a number that is not finite.
    """
    try:
        text = canonical_json(document)
    except UnicodeEncodeError:
        raise BundleError(
            f"{source}: a text of the manifest is not Unicode (half a character)", field="manifest"
        ) from None
    except ValueError as error:
        raise DivergedError(f"{source}: a number to be recorded is not finite", field="manifest") from error
    copy: dict[str, Any] = strict_json(text, source, "manifest")
    _refuse(MANIFEST_SPEC.problems(copy, ""), source)
    _refuse(structure_problems(copy), source)
    return copy


def printable(text: str) -> str:
    """Text safe for a terminal: control, escape and bidirectional characters are shown as escapes."""
    return _INVISIBLE.sub(lambda match: ascii(match.group())[1:-1], text)


def _check_version(document: Mapping[str, Any], source: str) -> None:
    version = document.get("format")
    if isinstance(version, list) and version and type(version[0]) is int and version[0] != FORMAT[0]:
        raise BundleError(
            f"{source}: format version {version[0]}, this ddlabel reads version {FORMAT[0]}",
            field="format",
            hint=f"needs {_writer(document)}, or write the bundle again with this one",
        )


def _writer(document: Mapping[str, Any]) -> str:
    """The ddlabel that a manifest of another major version needs: the one that wrote it, where it says so as we do."""
    try:
        version = document["history"][-1]["host"]["versions"]["ddlabel"]
    except (KeyError, IndexError, TypeError):
        version = None
    known = isinstance(version, str) and _VERSION.fullmatch(version)
    return f"ddlabel >= {version}" if known else f"a ddlabel newer than {__version__}"


def _refuse(problems: Iterable[str], source: str) -> None:
    """Raise the first five problems, if there are any."""
    first = list(itertools.islice(problems, 5))
    if first:
        raise BundleError(f"{source}: manifest: {'; '.join(first)}", field="manifest")

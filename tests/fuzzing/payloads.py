"""Codec decoders and label sections under attack, through manifests that are consistent with what they describe."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import torch
from torch import Tensor

from ddlabel import _plugins
from ddlabel.bundle import Bundle, RawTensor
from ddlabel.codecs._codec import Codec
from ddlabel.header import strict_json
from ddlabel.labels._checks import Place
from ddlabel.labels._labels import load_kind, make_section, read_labels
from ddlabel.labels._stored import load_record
from ddlabel.labels.dense import KIND as DENSE
from ddlabel.labels.soft import KIND as SOFT
from ddlabel.manifest import Manifest, normalise
from ddlabel.options import as_dict, build

from ..bundle.forging import DATA, hard_section, images_section, stage_record
from .harness import Target
from .mutations import NUMBERS, VALUES, damage, damage_json, damage_tensor, text_of

__all__ = ["CODECS", "TARGETS"]

CODECS = tuple(_plugins.names("codecs"))
CLASSES, IMAGES, SIZE = 7, 4, 4
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "delta-view": ({}, {"bits": 2, "centre": "f16", "coverage": 0.9}),
    "klt": ({}, {"step": 0.01}),
    "lowrank": ({}, {"rank": 1}),
    "prune": ({"keep": 0.5}, {"keep": 0.5, "values": "topk-ms"}),
    "q3": ({}, {"clip": 8.0}),
    "topk-min": ({}, {"k": 2, "bits": 2}),
    "topk-mr": ({}, {"k": 1, "bits": 3}),
    "topk-ms": ({}, {"k": 3, "bits": 8}),
    "vq": ({}, {"groups": 2, "entries": 3}),
}
"""Options tried with each codec, beside its defaults alone."""
UNCHECKED = {"f32", "f16", "bf16"}
"""Codecs that give back what they hold, finite or not; `read_labels` looks at it."""


@functools.cache
def _encoded(name: str, variant: int) -> tuple[Codec, dict[str, Tensor], tuple[int, int, int]]:
    """A codec, what it wrote, and the shape of the values."""
    values = torch.randn(IMAGES, 9, CLASSES, generator=torch.Generator().manual_seed(variant)) * 3
    codec = build(_plugins.load("codecs", name, "CODEC"), VARIANTS.get(name, ({},))[variant]).bind(9)
    parts = codec.encode(values)
    kept = codec.view_ids(IMAGES)
    return codec, parts, (IMAGES, 9 if kept is None else kept.shape[1], CLASSES)


# Decoders


def _make_parts(name: str, choice: random.Random) -> Any:
    codec, parts, shape = _encoded(name, choice.randrange(len(VARIANTS.get(name, ({},)))))
    options, parts, sides = as_dict(codec), dict(parts), list(shape)
    for _change in range(choice.choice((1, 1, 1, 2))):
        part, kind = choice.choice(sorted(parts) or ["values"]), choice.random()
        if kind < 0.75 and part in parts:
            parts[part] = damage_tensor(choice, parts[part])
        elif kind < 0.82:
            sides[choice.randrange(3)] = choice.choice((0, 1, 2, 3, 6, 8, 10, 300, 2**20))
        elif kind < 0.9 and options:
            options[choice.choice(sorted(options))] = choice.choice(
                (*NUMBERS[:9], 0.5, 1.0, "q8", "f16", "prune", None)
            )
        elif kind < 0.95:
            parts.pop(part, None)
        else:
            parts[choice.choice(("more", "values", "shared_codebook"))] = parts.get(part, torch.zeros(2))
    return name, options, parts, tuple(sides)


def _check_parts(case: Any) -> None:
    """An error of ours, or float32 values of the shape; finite, and decoded the same again."""
    name, options, parts, shape = case
    codec = load_record(_plugins.load("codecs", name, "CODEC"), options, Place("x.ddset", "labels.dense"))
    decoded = codec.decode(parts, shape)
    assert (torch.float32, shape) == (decoded.dtype, tuple(decoded.shape))
    if name not in UNCHECKED and options.get("values") not in UNCHECKED:
        assert bool(torch.isfinite(decoded).all())
    assert decoded.numpy().tobytes() == codec.decode(parts, shape).numpy().tobytes()


# Label sections


@functools.cache
def _labelled() -> tuple[dict[str, Any], dict[str, RawTensor], dict[str, list[str]]]:
    """Dense and soft labels by every codec: a manifest for each, all tensors, and the manifests' texts."""
    data = {**DATA, "classes": [f"c{index}" for index in range(CLASSES)]}
    base = Bundle.create("distilled", data, stage_record(), [hard_section(IMAGES), images_section(IMAGES)])
    sources, texts = dict(base._sources), {}
    for name in CODECS:
        texts[name] = []
        for variant, options in enumerate(VARIANTS.get(name, ({},))):
            for kind in (DENSE(grid=3, ratio="3/4"), SOFT()):
                values = torch.randn(
                    IMAGES, kind.view_count, CLASSES, generator=torch.Generator().manual_seed(variant)
                ).log_softmax(-1)
                section = make_section(
                    base, "dense" if kind.view_count > 1 else "soft", kind.parameters(SIZE), values,
                    domain="logprob", codec_name=name,
                    codec=build(_plugins.load("codecs", name, "CODEC"), {} if kind.view_count == 1 else options),
                    teachers=["0" * 64],
                )  # fmt: skip
                bundle = base.with_stage(stage_record("augment-labels"), add=[section])
                for tensor in section.tensors:
                    dtype, shape, content = bundle.read(tensor)
                    sources[f"{name} {variant} {tensor}"] = RawTensor(dtype, shape, bytes(content))
                texts[name].append(json.dumps(_unpacked(bundle.manifest.document)))
    return data, sources, texts


def _unpacked(document: Any) -> Any:
    """The manifest as if nothing were compressed."""
    copy = json.loads(json.dumps(document))
    for section in copy["sections"]:
        for tensor in section["tensors"].values():
            tensor |= tensor.pop("packed", {})
            for key in ("method", "shuffle", "length", "level"):
                tensor.pop(key, None)
    return copy


def _make_labels(choice: random.Random) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """A manifest of labels, and its tensors; one of both is changed, and they agree with each other."""
    _data, contents, texts = _labelled()
    name = choice.choice(CODECS)
    index = choice.randrange(len(texts[name]))
    document = json.loads(texts[name][index])
    section = next(item for item in document["sections"] if item["kind"] == "labels" and "codec" in item)
    prefix = f"{name} {index // 2} "
    sources = {tensor: contents[prefix + tensor] for tensor in section["tensors"]}
    sources |= {name: contents[name] for name in ("images.pixels", "labels.hard")}
    if choice.random() < 0.5:
        changed = choice.choice(sorted(section["tensors"]))
        source = _damaged(choice, sources[changed])
        sources[changed] = source
        section["tensors"][changed] = {
            "dtype": source.dtype, "shape": list(source.shape), "bytes": source.nbytes, "sha256": source.sha256,
        }  # fmt: skip
    else:
        where = choice.choice(("parameters", "codec", "codec", "views", "domain", "role", "fidelity", "of", "data"))
        if where == "data":
            document["data"] = damage_json(choice, document["data"], VALUES)
        elif where in {"parameters", "codec", "fidelity"}:
            section[where] = damage_json(choice, section[where], ("q4", "topk-ms", "vq", "klt", "2/3", 3, CLASSES))
        else:
            section[where] = choice.choice((*VALUES, "soft", "dense", "fkd", "prob", "unit", "logit", 9, 4))
    return document, sources


def _damaged(choice: random.Random, source: RawTensor) -> RawTensor:
    """Other bytes of the same size, or rows taken away."""
    if source.nbytes and source.shape and choice.random() < 0.2:
        rows = choice.choice((0, 1, source.shape[0] + 1))
        size = source.nbytes // source.shape[0] * rows
        return RawTensor(source.dtype, (rows, *source.shape[1:]), (2 * source.data)[:size])
    return RawTensor(source.dtype, source.shape, (damage(choice, source.data) + source.data)[: source.nbytes])


def _check_labels(case: tuple[dict[str, Any], dict[str, RawTensor]]) -> None:
    """Values of every image, finite, that fit the classes, and views that can be made; else a BundleError."""
    document, sources = case
    checked = normalise(strict_json(text_of(document), "x.ddset", "manifest"), "x.ddset")
    bundle = Bundle(Manifest(checked), sources, "x.ddset")
    for section in bundle.sections("labels"):
        if section.codec is not None:
            labels = read_labels(bundle, str(section.role))
            assert labels.values.shape[::2] == (IMAGES, len(checked["data"]["classes"]))
            assert bool(torch.isfinite(labels.values).all())
            kind = load_kind(labels)
            assert kind.view_count >= labels.values.shape[1]


TARGETS = (
    *(Target(f"codec {name}", functools.partial(_make_parts, name), _check_parts) for name in CODECS),
    Target("labels", _make_labels, _check_labels),
)

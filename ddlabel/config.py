"""The options of the stages, one frozen record each; common to all are `seed`, `device` and `threads`."""

from __future__ import annotations

import dataclasses

from .options import opt

__all__ = [
    "AugmentLabelsConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ImportConfig",
    "RefineConfig",
    "TrainTeacherConfig",
]

_DATA = "data set, NAME or NAME:PATH ('digits', 'cifar10:DIR', 'folder:DIR', 'npz:FILE')"
_DEVICE = "where to compute: auto, cpu, cuda, cuda:N or mps"
_THREADS = "CPU threads; 0 leaves torch's choice"
_SIZE = "side of the images in pixels; auto keeps the size of the data"
_SPACE = (
    "input space: pixels normalised per channel by the data's constants, by ImageNet's (what pretrained nets and RDED "
    "take), or ZCA-whitened"
)
_SPACES = ("normalised", "imagenet", "zca")
_SELF_TEST = (
    "least accuracy of a teacher whose answers are used, as a multiple of chance, on a slice of held-out images; 0 "
    "tests nothing"
)
_RECIPE = "published settings by name, under what is typed here; 'ddlabel recipes' lists them"
_MAX_KL = "with --codec auto: take the smallest codec within this mean KL in nats at temperature 1 (default 0.01)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTeacherConfig:
    """Train one or several nets on real data and keep chosen checkpoints."""

    data: str = opt(..., _DATA)
    arch: str | None = opt(None, "net, such as convnet-d3-w64; auto takes the ConvNet whose depth suits the images")
    weights: str | None = opt(
        None,
        "file of weights to start from, .safetensors, .pt or .pth; everything must fit, by torchvision's names where "
        "nets are torchvision's",
    )
    epochs: int = opt(
        50, "passes over the training split; 0, with --weights, keeps these as they are", min=0, max=100_000
    )
    keep: tuple[int, ...] = opt((), "epochs whose checkpoints are kept, such as 10,20,50; none keeps the last", min=0)
    experts: int | None = opt(
        None,
        "how many nets to train, each from its own seed, recording their trajectories; auto trains one and records "
        "none; 0 trains none but those of --scores",
        min=0,
        max=10_000,
    )
    first_expert: int = opt(
        0, "number of the first net, so that several processes share the work of one seed", min=0, max=1_000_000
    )
    keep_epochs: str = opt(
        "auto", "epochs that trajectories record: all, FIRST-LAST or none; auto is all with --experts, else none"
    )
    optimizer: str = opt(
        "sgd",
        "how nets are optimised: sgd, gsam (FTD's flat trajectories, two gradients a step) or smooth (AST)",
        choices=("sgd", "gsam", "smooth"),
    )
    scores: str | None = opt(
        None,
        "difficulty of every training image, kept in the bundle: el2n, grand, loss, entropy, margin, confidence or "
        "forgetting; or FILE, a bundle or .npy with scores",
    )
    curriculum: str | None = opt(
        None, "which images each epoch sees, by difficulty: pad (FIEX as in the paper) or pad-code; auto is all"
    )
    size: int | None = opt(None, _SIZE, min=4, max=1024)
    space: str = opt("normalised", _SPACE, choices=_SPACES)
    validation: float = opt(0.1, "share of the training split held out for selection", min=0, below=1)
    recipe: str | None = opt(None, _RECIPE)
    seed: int = opt(0, "seed of every random draw", min=0)
    device: str = opt("auto", _DEVICE)
    threads: int = opt(0, _THREADS, min=0, max=1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Select or optimise a few images per class."""

    data: str = opt(..., _DATA)
    method: str = opt("dm", "distillation or selection method; 'ddlabel methods' lists them")
    ipc: int = opt(10, "images per class", min=1, max=1_000_000)
    arch: str | None = opt(
        None, "net the method optimises through; auto is that of the trajectories, or as in train-teacher"
    )
    checkpoint: str | None = opt(
        None,
        "which kept epoch of the teachers guides sre2l, rded and g-vbsm: a number, 'last', 'all', 'ipc' (the fewer "
        "images, the earlier), 'rded' (the same by DCPI's rule) or 'pad' (easy images only for few images per class); "
        "auto is last",
    )
    self_test: float = opt(3.0, _SELF_TEST, min=0, max=1000)
    unroll: str | None = opt(
        None,
        "gradient through the student's steps: adjoint (exact, constant memory), full or tesla (biased); auto is the "
        "method's",
        choices=("adjoint", "full", "tesla"),
    )
    filter: str | None = opt(
        None, "drop a share of each class first, SIDE:RATIO such as hard:0.2, by the scores of a --teacher (PAD's FIEX)"
    )
    mask_shallow: float | None = opt(
        None, "share of the shallowest parameters not matched (PAD's FIEM)", min=0, below=1
    )
    size: int | None = opt(None, _SIZE, min=4, max=1024)
    space: str | None = opt(None, _SPACE + "; auto is the teacher's, or normalised", choices=_SPACES)
    pixels: str | None = opt(
        None,
        "how images are stored: uint8 or float32; auto is uint8, and float32 for zca",
        choices=("uint8", "float32"),
    )
    validation: float = opt(0.1, "share of the training split held out for selection", min=0, below=1)
    recipe: str | None = opt(None, _RECIPE)
    seed: int = opt(0, "seed of every random draw", min=0)
    device: str = opt("auto", _DEVICE)
    threads: int = opt(0, _THREADS, min=0, max=1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentLabelsConfig:
    """Let teachers label the distilled images."""

    kind: str = opt(
        "soft",
        "label kind: soft (one view), dense (LADD's sub-crops), fkd (replayed crops and mixes), feature (what a layer "
        "gives) or attention (that, pooled)",
    )
    checkpoint: str = opt(
        "default",
        "which kept epoch of each teacher labels: a number, 'last', 'all' (combined), 'ipc' (the fewer images, the "
        "earlier), 'rded' (the same by DCPI's rule), 'auto' (what makes the best student on held-out training images; "
        "needs --data), or 'default': last, and 1 for feature and attention labels",
    )
    ensemble: str = opt(
        "mean",
        "how the logits of several checkpoints become one label: mean, or equal-norm (each sample's are scaled alike)",
        choices=("mean", "equal-norm"),
    )
    data: str | None = opt(None, _DATA + ", for --checkpoint auto and --self-test")
    auto_epochs: int = opt(200, "epochs of the students that --checkpoint auto trains", min=1, max=1_000_000)
    self_test: float = opt(
        3.0, _SELF_TEST + "; without --data, as recorded when the teacher was trained", min=0, max=1000
    )
    grid: int | None = opt(None, "dense: N of the N x N windows (default 5)", min=1, max=64)
    ratio: str | None = opt(None, "dense: side of a window as a fraction P/Q of the image (default 5/8)")
    codec: str = opt(
        "default",
        "how label values are stored ('ddlabel methods' lists the codecs); auto: see --max-kl; default: f32, and f16 "
        "for feature and attention labels",
    )
    max_kl: float | None = opt(None, _MAX_KL, min=0, max=1000)
    recipe: str | None = opt(None, _RECIPE)
    seed: int = opt(0, "seed of every random draw", min=0)
    device: str = opt("auto", _DEVICE)
    threads: int = opt(0, _THREADS, min=0, max=1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Change labels that a bundle already holds."""

    method: str = opt(
        "gift",
        "refinement: gift (mix with the smoothed hard label), recode (another codec) or dcpi (learn feature or "
        "attention labels)",
    )
    labels: str | None = opt(
        None, "label kind to refine; auto takes the richest one present. dcpi: feature or attention, auto is feature"
    )
    matcher: str | None = opt(
        None,
        "dcpi: what the labels are learned by: dc (gradients of real images), mtt or datm (trajectories of experts); "
        "auto is dc",
        choices=("dc", "mtt", "datm"),
    )
    data: str | None = opt(None, _DATA + ", for dcpi")
    arch: str | None = opt(
        None, "dcpi: net to learn through; auto takes the experts', or the ConvNet that suits the images"
    )
    codec: str = opt("keep", "codec of the result: keep (the present one; f16 for dcpi), a name, or auto: see --max-kl")
    max_kl: float | None = opt(None, _MAX_KL, min=0, max=1000)
    recipe: str | None = opt(None, _RECIPE)
    seed: int = opt(0, "seed of every random draw", min=0)
    device: str = opt("auto", _DEVICE)
    threads: int = opt(0, _THREADS, min=0, max=1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Train fresh students on a bundle and score them on test data."""

    data: str = opt(..., _DATA)
    arch: tuple[str, ...] = opt(
        (),
        "student nets, comma separated, or groups of them: 4-cae, 5-cae (LADD), pad-8, gift-6, dcpi-6; none takes the "
        "ConvNet that suits the images",
    )
    labels: str | None = opt(
        None,
        "label kind to train on: hard, soft, dense or fkd, or online (a --teacher answers every augmented batch: "
        "knowledge distillation, never compliant); with +feature or +attention those beside it, as in "
        "soft+feature (feature alone is hard+feature); auto takes the richest of each present",
    )
    loss: tuple[str, ...] = opt(
        (), "training losses, comma separated; none takes the one that suits the labels, also called 'native'"
    )
    optimizer: tuple[str, ...] = opt(
        (),
        "optimisers to compare, comma separated, each at its preset step sizes (sgd 0.01 and 0.1, momentum 0.9, weight "
        "decay 5e-4; adam and adamw 1e-3, 1e-4) or --set lr; none takes the protocol's",
        choices=("sgd", "adam", "adamw"),
    )
    protocol: str | None = opt(
        None,
        "published training protocol: dc, dm, mtt, datm, gift, glad, fkd, rded or gvbsm; kd (RDED's with a live "
        "teacher), continual (dm in class-incremental steps), ddranking (its four scores); auto is kd where only "
        "--teacher is given, else dm, and mtt or datm where a step size was learned with the images (datm on learned "
        "soft labels)",
    )
    epochs: int | None = opt(None, "epochs of the student; auto takes the protocol's", min=1, max=1_000_000)
    seeds: int = opt(5, "how many students per net, each from its own seed", min=1, max=10_000)
    baselines: bool = opt(False, "also score random images at equal ipc, with hard and with the same labels")
    equal_bytes: bool = opt(
        False,
        "also score what the bytes of the labels buy as plain images: random ones, and more images by the same method "
        "(LADD's baseline++), given by --plain or distilled again",
    )
    incremental: tuple[int, ...] = opt(
        (),
        "class-incremental learning (GDumb): in how many steps the classes come, comma separated such as 5,10; every "
        "step trains fresh students on the images of all classes so far",
        min=2,
    )
    orders: int = opt(5, "--incremental: orders in which the classes come, each with --seeds students", min=1, max=1000)
    picture: str | None = opt(
        None, "draw the table into this SVG file: nets side by side, or curves over --incremental"
    )
    gradcam: str | None = opt(
        None, "folder for Grad-CAM overlays of test images by the first student of every net, with the raw maps"
    )
    diagnose: str | None = opt(
        None,
        "measure feature or attention labels (discriminability, diversity, alignment of gradients with real images) "
        "and draw them into this PNG file",
    )
    recipe: str | None = opt(None, _RECIPE)
    seed: int = opt(0, "seed of every random draw", min=0)
    device: str = opt("auto", _DEVICE)
    threads: int = opt(0, _THREADS, min=0, max=1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a distilled bundle in a format of others."""

    format: str | None = opt(
        None,
        "folder (PNG by class), npz, mtt (.pt files), dc (one .pt), parquet (Hugging Face), webdataset (tar) or scores "
        "(CSV); auto goes by the end of OUTPUT: .npz, .pt, .parquet, .tar, .csv",
    )
    labels: tuple[str, ...] = opt(
        (), "label kinds to export, comma separated, or hard for no others; none takes all that the format holds"
    )
    view: str = opt(
        "clip",
        "pictures of float images: clip (values cut to [0, 1], colours are true) or contrast (mean +- 2.5 standard "
        "deviations of the set stretched to [0, 1], as MTT draws them)",
        choices=("clip", "contrast"),
    )
    measure: bool = opt(
        False, "train students on the bundle and on what its pictures still hold, on --data, and report the difference"
    )
    data: str | None = opt(None, _DATA + ", for --measure")
    arch: str | None = opt(None, "--measure: student net; auto takes the ConvNet that suits the images")
    epochs: int | None = opt(None, "--measure: epochs of the students; auto takes the protocol's", min=1, max=1_000_000)
    seeds: int = opt(3, "--measure: how many students, each from its own seed", min=1, max=10_000)
    seed: int = opt(0, "--measure: seed of every random draw", min=0)
    device: str = opt("auto", _DEVICE)
    threads: int = opt(0, _THREADS, min=0, max=1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Read distilled sets of other tools; what their files do not say is given here."""

    format: str = opt("auto", "format of the files ('ddlabel methods' lists them), or auto")
    data: str | None = opt(
        None, _DATA + " that the set was distilled from: says its name, classes, constants and fingerprint"
    )
    name: str | None = opt(None, "what the data set is called, without --data")
    classes: tuple[str, ...] = opt(
        (), "class names in label order, comma separated, or one text file with a name on each line"
    )
    values: str | None = opt(
        None,
        "what float images are: units (pixels from 0 to 1) or space (what nets were fed)",
        choices=("units", "space"),
    )
    space: str | None = opt(
        None,
        "input space of the images: normalised, imagenet (normalised by ImageNet's constants) or zca (whitened; fitted "
        "again on --data); for pixels auto is normalised",
        choices=_SPACES,
    )
    constants: str | None = opt(None, "take mean and std of this published data set, such as cifar10")
    mean: tuple[float, ...] = opt((), "mean of each channel in [0, 1] units, comma separated", min=0, max=1)
    std: tuple[float, ...] = opt((), "standard deviation of each channel, comma separated", above=0, max=1)
    domain: str | None = opt(None, "what soft labels are: logit or prob", choices=("logit", "prob"))
    mirror: str | None = opt(
        None, "whether a mirrored image is still of its class, without --data: yes or no", choices=("yes", "no")
    )
    accept_guess: bool = opt(False, "take what the pixels suggest where nothing is given; recorded as a guess")
    pixels: str | None = opt(
        None,
        "how images are stored: uint8 or float32; auto is as in the files",
        choices=("uint8", "float32"),
    )
    threads: int = opt(0, _THREADS, min=0, max=1024)

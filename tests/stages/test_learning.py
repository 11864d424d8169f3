"""`refine --method dcpi --matcher dc` on files: what the bundle holds afterwards, stopping and continuing, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.config import RefineConfig
from ddlabel.distilled import read_distilled
from ddlabel.errors import BundleError, DivergedError, UsageError
from ddlabel.events import Event
from ddlabel.labels._labels import read_labels
from ddlabel.labels._privileged import read_privileged
from ddlabel.preprocess import read_space
from ddlabel.stages import _partial, refine
from ddlabel.stages._partial import Progress
from ddlabel.teachers import Teacher

from ..conftest import write_tiny_npz

SETTINGS: dict[str, Any] = {"steps": 3, "outer": 2, "inner": 2, "batch_real": 6}
NET = "convnet-d1-w8"


def config(files, **changes: Any) -> RefineConfig:
    return RefineConfig(**({"method": "dcpi", "data": files.data, "arch": NET, "device": "cpu"} | changes))


def learn(files, bundle: Path | None = None, *, teachers: tuple[Bundle, ...] = (), **settings: Any) -> Bundle:
    named = {name: settings.pop(name) for name in ("labels", "codec", "arch") if name in settings}
    opened = Bundle.open(bundle or files.base)
    return refine.run(opened, config(files, **named), SETTINGS | settings, teachers=teachers)


def test_learned_features_join_the_bundle(files) -> None:
    """In half precision, with how they were learned; without them the bundle is what it was."""
    learned = learn(files)
    labels = read_privileged(learned, "feature")
    plain = learned.with_stage(StageRecord("refine", {}, 0, [], {}, 0.0, 0.0, {}), drop=["labels.feature"])

    assert (12, 1, 8, 4, 4) == tuple(labels.values.shape)
    assert "f16" == (labels.section.codec or {})["name"]
    assert ("learned", "dc", 0.5, 0.01) == tuple(
        labels.parameters[name] for name in ("mode", "matcher", "lambda_reg", "lambda_task")
    )
    assert learned.images_digest() == Bundle.open(files.base).images_digest()
    assert torch.equal(read_distilled(plain).images, read_distilled(Bundle.open(files.base)).images)
    assert not plain.verify()
    metrics = learned.manifest.history[-1]["metrics"]
    assert metrics["movement"] > 0.001
    assert {"label_accuracy", "pull", "outer"} <= set(metrics)


def test_the_command_line_learns_attention(run_cli, files, tmp_path: Path) -> None:
    """Kind by --labels; its options by --set; the file is scored as any other."""
    made = run_cli(
        "refine", files.soft, "--method", "dcpi", "--labels", "attention", "--data", files.data, "--arch", NET,
        "--set", "steps=1", "--set", "outer=1", "--set", "attention=channel", "--set", "k=2", "--set", "store=all",
        "--codec", "q8", "-o", tmp_path / "a.ddset",
    )  # fmt: skip
    labels = read_privileged(Bundle.open(tmp_path / "a.ddset"), "attention")

    assert 0 == made.code, made.err
    assert (12, 2, 8, 1, 1) == tuple(labels.values.shape)
    assert "not from attention labels" in made.err
    assert not Bundle.open(tmp_path / "a.ddset").section("labels.soft").stale


def test_moved_images_replace_the_old_ones_in_their_type(files) -> None:
    """8-bit images stay so; labels of the old images are stale, the learned ones are of the new."""
    before, said = Bundle.open(files.soft), []
    settings = SETTINGS | {"tune_images": True}
    moved = refine.run(before, config(files), settings, on_event=lambda event: said.append(event.message))
    metrics = moved.manifest.history[-1]["metrics"]

    assert torch.uint8 == moved.tensor("images.pixels").dtype
    assert before.images_digest() != moved.images_digest()
    assert moved.section("labels.soft").stale
    assert not read_privileged(moved, "feature").section.stale
    assert 0 < metrics["quantisation_rmse"] < 0.02
    assert read_space(moved).kind == "normalised"
    assert any("labels.soft is stale" in (message or "") for message in said)


def test_labels_beyond_half_precision_have_diverged(files) -> None:
    """Named with the step size, whatever the codec; not a label that a codec cannot hold."""
    with pytest.raises(DivergedError, match=r"labels reached .* expected at most 60000") as caught:
        learn(files, lr_feat=1e9, codec="f32")
    assert "lr_feat (now 1e+09)" in str(caught.value)


def test_labels_for_zscore_bring_their_norm(files) -> None:
    """It was fitted to the first labels and fixed."""
    labels = read_privileged(learn(files, norm="zscore", codec="f32"), "feature")

    assert labels.norm is not None
    assert (8, 4, 4) == tuple(labels.norm.scale.shape)


def test_a_teachers_features_come_first(files) -> None:
    """Its last checkpoint; the net is the teacher's unless --arch says another, which is refused."""
    teacher = Bundle.open(files.teacher)
    loaded = Teacher(teacher)
    net = loaded.net(loaded.select("last")[0])
    given: dict[str, Any] = {"init": "teacher", "lr_feat": 1e-30, "codec": "f32", "arch": None, "steps": 1, "outer": 1}
    learned, early = (learn(files, teachers=(teacher,), **given, init_checkpoint=which) for which in ("last", "1"))

    images = read_distilled(Bundle.open(files.base)).images
    first = loaded.net(loaded.select("1")[0])
    for made, by in ((learned, net), (early, first)):
        expected = by.tap(images, 1)[0].detach()
        torch.testing.assert_close(read_privileged(made, "feature").values[:, 0], expected, rtol=0, atol=1e-20)
    with pytest.raises(UsageError, match="checkpoint '2' is not in"):
        learn(files, teachers=(teacher,), init="teacher", init_checkpoint="2")
    with pytest.raises(UsageError, match="k 1, expected as many nets by --teacher, not 2"):
        learn(files, teachers=(teacher, teacher), init="teacher")
    with pytest.raises(BundleError, match="is of net 'convnet-d1-w8-instance', --arch is 'convnet-d1-w4-instance'"):
        learn(files, teachers=(teacher,), init="teacher", arch="convnet-d1-w4")


def test_labels_that_mirrored_with_their_images_say_so(files) -> None:
    """For those who use them; every run ends with what it did to its labels."""
    events: list[Event] = []
    settings = SETTINGS | {"steps": 1, "label_aug": "hflip", "augment": "dsa"}
    learned = refine.run(Bundle.open(files.base), config(files, labels="attention"), settings, on_event=events.append)

    assert "hflip" == read_privileged(learned, "attention").parameters["label_aug"]
    assert "none" == read_privileged(learn(files, steps=1), "feature").parameters["label_aug"]
    assert str(events[-1].message).startswith("labels moved by")


def test_soft_labels_of_the_bundle_are_read_where_asked(files) -> None:
    """Option `soft`; in whatever domain they are stored."""
    plain, soft = learn(files, files.soft), learn(files, files.soft, soft=1.0)

    assert not torch.equal(*(read_privileged(made, "feature").values for made in (plain, soft)))
    assert torch.equal(*(read_labels(made, "soft").values for made in (plain, soft)))


class Stop(Exception):
    """The plug was pulled."""


def stop_after(count: int):
    def on_event(event: Event) -> None:
        if event.phase == "distilling" and event.done == count:
            raise Stop

    return on_event


@pytest.mark.parametrize("settings", [{}, {"tune_images": True, "feat_opt": "adam", "k": 2}], ids=str)
def test_a_stopped_run_goes_on_to_the_same_bundle(files, settings: dict[str, Any], monkeypatch) -> None:
    """Same tensors, byte for byte, from a state that went through a file."""
    monkeypatch.setattr(_partial, "INTERVAL_S", 0.0)
    monkeypatch.setattr(_partial, "SHARE", 1e9)
    kept: list[Bundle] = []
    whole = learn(files, **settings)
    arguments = (Bundle.open(files.base), config(files), SETTINGS | settings)
    with pytest.raises(Stop):
        refine.run(*arguments, on_event=stop_after(2), progress=Progress(save=kept.append))

    again = refine.run(*arguments, progress=Progress(saved=kept[-1]))

    assert kept[-1].section("state.progress").parameters["done"] == 2
    sections = [bundle.manifest.document["sections"] for bundle in (whole, again)]
    assert sections[0] == sections[1]


REFUSED = [
    (("--labels", "soft"), "learns feature or attention"),
    (("--codec", "auto"), "codec 'auto' is for distributions"),
    (("--codec", "topk-ms"), "is for distributions"),
    (("--teacher", "TEACHER"), "takes no teacher"),
    (("--set", "init=teacher"), "expected --teacher"),
    (("--matcher", "nothing"), "one of dc, mtt, datm"),
    (("--set", "k=0"), "option 'k' is 0"),
    (("--set", "lambda_reg=-1"), "option 'lambda_reg' is -1"),
    (("--set", "lr_feat=1e38"), "lower --set lr_feat"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_cannot_work_is_refused(run_cli, files, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    """With what is wrong, and no file."""
    more = tuple(str(files.teacher) if part == "TEACHER" else part for part in more)
    made = run_cli(
        "refine", files.base, "--method", "dcpi", "--data", files.data, "--arch", NET, "--set", "steps=1",
        "--set", "outer=1", *more, "-o", tmp_path / "a.ddset",
    )  # fmt: skip

    assert made.code in {2, 5}
    assert message in made.err
    assert not (tmp_path / "a.ddset").exists()


def test_data_are_needed_and_for_learning_alone(run_cli, files, tmp_path: Path) -> None:
    """dcpi without --data, and gift with it."""
    learned = run_cli("refine", files.base, "--method", "dcpi", "-o", tmp_path / "a.ddset")
    refined = run_cli("refine", files.dense, "--method", "gift", "--data", files.data, "-o", tmp_path / "b.ddset")

    assert "expected --data" in learned.err
    assert "takes no data" in refined.err


def test_other_data_are_refused(files, tmp_path: Path) -> None:
    """The real images must be those that the set was distilled from."""
    other = write_tiny_npz(tmp_path / "other.npz", seed=1)
    with pytest.raises(BundleError, match="training images"):
        refine.run(Bundle.open(files.base), config(files, data=f"npz:{other}"), SETTINGS)


def test_broken_images_are_refused(files) -> None:
    """NaN in a bundle is a damaged bundle, not a diverged run."""
    bundle = Bundle.open(files.base)
    images = read_distilled(bundle).images
    images[0, 0, 0, 0] = torch.nan
    broken = NewSection("images", "images", {"images.pixels": images}, range="float32")
    record = StageRecord("refine", {}, 0, [], {}, 0.0, 0.0, {})
    with pytest.raises(BundleError, match="NaN"):
        refine.run(bundle.with_stage(record, add=[broken]), config(files), SETTINGS)


def test_a_codec_that_cannot_hold_the_labels_is_refused_before_they_are_learned(files) -> None:
    """One label of an image has no two directions."""
    seen: list[Event] = []
    with pytest.raises(UsageError, match="rank is 2 for labels of 1 views"):
        refine.run(
            Bundle.open(files.base), config(files, codec="lowrank"), {**SETTINGS, "rank": 2}, on_event=seen.append
        )

    assert not [event for event in seen if event.phase == "distilling"]

"""RDED: crops against torch's own resizing, mosaics against a loop, choices against the definition with stub nets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddlabel.bundle import Bundle
from ddlabel.data._dataset import load
from ddlabel.distill._crops import cut, random_squares
from ddlabel.distill._method import Distilled, Problem, run
from ddlabel.distill._mosaic import cell_sides, centred, in_cells, stitched
from ddlabel.distill._scoring import Scorer, folded, memory_format
from ddlabel.distill.rded import Rded, factor_for, spread
from ddlabel.errors import DataError, UsageError
from ddlabel.nets._net import Net, build
from ddlabel.seeding import generator
from ddlabel.space import Space

MakeProblem = Callable[..., Problem]
RunCli = Callable[..., Any]


class Bright(Net):
    """Logit c of an image is the mean of channel c: what it says of any crop is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return (lambda images: images * self.scale,)

    def gather(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return features


def random_norms(net: nn.Module) -> nn.Module:
    """Batch norm with statistics and weights that matter."""
    source = generator(0, "norms")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low in (("running_mean", -0.5), ("running_var", 0.5), ("weight", 0.5), ("bias", -0.5)):
                tensor = getattr(module, name)
                tensor.data = low + torch.rand(tensor.shape, generator=source)
    return net.eval().requires_grad_(False)


def made(name: str, size: int = 16) -> Any:
    return random_norms(build(name, channels=3, size=size, classes=3, generator=generator(0, name)))


def slow_crops(problem: Problem, table: Tensor, out: int) -> Tensor:
    """Crops (n, 4) in levels (n, c, out, out), one at a time by torch's resizing."""
    cuts = []
    for image, top, left, side in table.tolist():
        crop = problem.pixels[image : image + 1, :, top : top + side, left : left + side].float()
        cuts.append(functional.interpolate(crop, (out, out), mode="bilinear", antialias=True))
    return torch.cat(cuts)


class TestCrops:
    """Squares and their resizing."""

    def test_squares_lie_inside_and_have_areas_in_the_range(self) -> None:
        """Also at their extremes: the mean area is that of the uniform distribution, all corners are reached."""
        tops, lefts, sides = random_squares(20_000, 32, 0.08, generator(0, "squares")).unbind(dim=1)

        assert int(torch.stack([tops, lefts]).min()) == 0
        assert int((tops + sides).max()) == int((lefts + sides).max()) == 32
        assert (9, 32) == (int(sides.min()), int(sides.max()))
        assert (sides.double() ** 2 / 1024).mean().item() == pytest.approx(0.54, abs=0.01)
        small = sides == 20
        assert torch.bincount(tops[small], minlength=13).min() > 0.5 * int(small.sum()) / 13

    def test_the_whole_image_is_the_only_crop_of_its_size(self) -> None:
        """Least area 1, and images of one pixel."""
        assert random_squares(3, 8, 1.0, generator(0)).tolist() == [[0, 0, 8]] * 3
        assert random_squares(2, 1, 0.08, generator(0)).tolist() == [[0, 0, 1]] * 2

    @pytest.mark.parametrize(("size", "out"), [(17, 17), (32, 10), (9, 13)], ids=["same", "smaller", "larger"])
    @pytest.mark.parametrize(("kind", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
    def test_resizing_is_torchs_antialiased_one(self, size: int, out: int, kind: torch.dtype, bound: float) -> None:
        """Of each crop alone."""
        images = torch.rand(3, 2, size, size, dtype=kind, generator=generator(0, "images"))
        crops = random_squares(12, size, 0.02, generator(0, size)).view(3, 4, 3)
        cuts = cut(images, crops, out)

        assert tuple(cuts.shape) == (3, 4, 2, out, out)
        for image in range(3):
            for crop, (top, left, side) in enumerate(crops[image].tolist()):
                alone = images[image : image + 1, :, top : top + side, left : left + side]
                expected = functional.interpolate(alone, (out, out), mode="bilinear", antialias=True)[0]
                assert torch.allclose(expected, cuts[image, crop], atol=bound, rtol=0)


class TestMosaics:
    """Layout by loops."""

    @pytest.mark.parametrize(("side", "factor"), [(8, 1), (8, 2), (9, 2), (11, 3), (8, 3), (7, 5)])
    def test_every_pixel_comes_from_its_patch(self, side: int, factor: int) -> None:
        """Patch (r f + t) ipc + i, nearest pixel, cells of one pixel more first."""
        ipc, small = 2, side // factor
        ranked = torch.arange(ipc * factor**2 * small**2).view(-1, 1, small, small)
        images = stitched(in_cells(ranked, factor), side)

        assert tuple(images.shape) == (ipc, 1, side, side)
        sizes = cell_sides(side, factor)
        assert sum(sizes) == side
        for image in range(ipc):
            for row in range(factor):
                for column in range(factor):
                    top, left = sum(sizes[:row]), sum(sizes[:column])
                    wanted = (sizes[row], sizes[column])
                    patch = ranked[(row * factor + column) * ipc + image][None].double()
                    cell = functional.interpolate(patch, wanted, mode="nearest")[0].long()
                    assert torch.equal(cell, images[image, :, top : top + wanted[0], left : left + wanted[1]])

    def test_patches_lie_in_the_middle_of_zeros(self) -> None:
        """And a patch of the image's size is the image."""
        canvas = centred(torch.ones(1, 1, 3, 3), 8)

        assert canvas.sum() == 9
        assert canvas[0, 0, 2:5, 2:5].sum() == 9
        assert centred(canvas, 8) is canvas


class TestScores:
    """Fast nets against the nets themselves."""

    @pytest.mark.parametrize(
        ("name", "left"),
        [("convnet-d2-w8-bn", 0), ("convnet-d2-w8-instance", 0), ("resnet18-batch", 0), ("resnet18-ap-batch", 3)],
        ids=["convnet", "instance norm", "resnet", "pooling between"],
    )
    def test_losses_are_those_of_the_net(self, name: str, left: int) -> None:
        """Folded where a batch norm follows a convolution, and channels last; the net itself is not changed."""
        net = made(name)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        images = torch.randn(9, 3, 16, 16, generator=generator(0, "images"))
        expected = functional.cross_entropy(net(images), torch.full((9,), 2), reduction="none")
        scorer = Scorer((net,), (3, 16, 16))
        scorer.chunk = 4

        assert torch.allclose(expected, scorer.losses(images.clone(), 2), atol=1e-5)
        assert torch.allclose(functional.normalize(net.embed(images)), scorer.features(images.clone()), atol=1e-5)
        assert left == sum(isinstance(module, nn.BatchNorm2d) for module in folded(net, (3, 16, 16)).modules())
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())

    def test_a_convolution_that_is_used_twice_is_left_alone(self) -> None:
        """Folding would change what else uses it; so would overwriting what a rectifier is given."""

        class Around(Bright):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

            def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
                return (self.conv, lambda maps: maps + functional.relu(self.norm(maps)) - functional.relu(maps))

        net: Any = random_norms(Around())
        images = torch.randn(5, 3, 8, 8, generator=generator(0, "images"))
        expected = functional.cross_entropy(net(images), torch.zeros(5, dtype=torch.int64), reduction="none")

        assert any(isinstance(module, nn.BatchNorm2d) for module in folded(net, (3, 8, 8)).modules())
        assert torch.allclose(expected, Scorer((net,), (3, 8, 8)).losses(images.clone(), 0), atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "last"),
        [("convnet-d2-w8-bn", True), ("convnet-d2-w8-bn-nopool", False), ("resnet18-modified", False)],
    )
    def test_nets_that_pool_run_channels_last(self, name: str, last: bool) -> None:
        """On a CPU others are faster as they are."""
        assert memory_format(made(name), (3, 16, 16)) is (torch.channels_last if last else torch.contiguous_format)

    def test_images_stay_as_they_are(self) -> None:
        """Also where the first layer is a rectifier, and the layout that of the images."""

        class Rectified(Bright):
            def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
                return (functional.relu,)

        net: Any = Rectified()
        images = torch.randn(2, 3, 8, 8, generator=generator(0, "images"))
        before = images.clone()
        Scorer((net, net), (3, 8, 8)).losses(images, 0)

        assert torch.equal(images, before)

    def test_several_nets_count_alike(self) -> None:
        """The mean of their losses, and of their cosines."""
        nets = made("convnet-d1-w4-bn"), made("convnet-d2-w8-bn")
        images = torch.randn(4, 3, 16, 16, generator=generator(0, "images"))
        both, first, second = (Scorer(chosen, (3, 16, 16)) for chosen in (nets, nets[:1], nets[1:]))
        cosines = [each.features(images) @ each.features(images).T for each in (both, first, second)]

        assert torch.allclose(both.losses(images, 1), (first.losses(images, 1) + second.losses(images, 1)) / 2)
        assert torch.allclose(cosines[0], (cosines[1] + cosines[2]) / 2, atol=1e-6)


class TestChoice:
    """The method on nets whose answers are known."""

    @pytest.mark.parametrize("factor", [1, 2, 3], ids=["no mosaic", "2 x 2", "3 x 3 of 10 px"])
    def test_the_best_crops_are_taken_in_order_and_laid_out(self, factor: int) -> None:
        """Loss by a loop over the pool's crops: one per image, ascending; 10 px are not divisible by 3."""
        problem = stub_problem(side=10)
        method = Rded(factor=factor, pool=20, crops=3)
        distilled = run(method, problem)
        assert distilled.pixels is not None
        assert distilled.patches is not None
        assert distilled.patch_losses is not None
        small = 10 // factor

        for label in range(3):
            drawn = torch.cat(list(method._drawn(problem, label, 7)))
            canvases = centred(problem.space.encode(slow_crops(problem, drawn.flatten(0, 1), small)), 10)
            losses = functional.cross_entropy(
                canvases.mean(dim=(2, 3)), torch.full((len(canvases),), label), reduction="none"
            ).view(20, 3)
            lowest, which = losses.min(dim=1)
            order = lowest.sort().indices[: 2 * factor**2]
            table = drawn[order, which[order]]
            own = slice(2 * label, 2 * label + 2)
            assert torch.equal(in_cells(table, factor), distilled.patches[own])
            assert torch.allclose(in_cells(lowest[order], factor), distilled.patch_losses[own], atol=1e-5)
            levels = slow_crops(problem, table, small).round().to(torch.uint8)
            off = stitched(in_cells(levels, factor), 10).int() - distilled.pixels[own].int()
            assert int(off.abs().max()) <= 1
            assert (off != 0).double().mean() < 0.01

    def test_images_of_a_pool_are_different_ones_of_the_class(self) -> None:
        """A class smaller than the pool is taken whole."""
        problem = stub_problem(side=8)
        drawn = torch.cat(list(Rded(pool=7)._drawn(problem, 1, 2)))[:, 0, 0]
        whole = torch.cat(list(Rded(pool=300)._drawn(problem, 1, 2)))[:, 0, 0]

        assert len(set(drawn.tolist())) == 7
        assert set(problem.labels[drawn].tolist()) == {1}
        assert sorted(whole.tolist()) == problem.members(1).tolist()

    def test_patches_of_a_smaller_budget_are_the_first_of_a_larger_one(self) -> None:
        """In order of their losses; of whole images also the images."""
        small, large = (run(Rded(), stub_problem(side=8, ipc=ipc)) for ipc in (2, 5))
        assert small.pixels is not None
        assert large.pixels is not None

        assert torch.equal(small.pixels.unflatten(0, (3, 2)), large.pixels.unflatten(0, (3, 5))[:, :2])

    def test_a_class_does_not_depend_on_the_others(self) -> None:
        """Images of class 0 replaced: classes 1 and 2 are the same."""
        problem = stub_problem(side=8)
        other = stub_problem(side=8)
        other.pixels[other.labels == 0] = 7
        first, second = (pixels_of(run(Rded(factor=2), each)) for each in (problem, other))

        assert torch.equal(first[2:], second[2:])
        assert not torch.equal(first[:2], second[:2])

    def test_guidance_avoids_what_is_chosen_already(self) -> None:
        """Loss + eta * max cosine by hand: the second candidate repeats the first one."""
        features = functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        losses = torch.tensor([0.1, 0.2, 0.9, 0.5])

        assert spread(losses, features, 3, 0.0).tolist() == [0, 1, 3]
        assert spread(losses, features, 3, 1.0).tolist() == [0, 2, 1]
        assert spread(losses, features, 4, 2.0).tolist() == [0, 2, 3, 1]

    def test_guidance_changes_the_choice(self) -> None:
        """Through the method, the first patch apart."""
        plain, guided = (run(Rded(eta=eta, factor=2), stub_problem(side=8)) for eta in (0.0, 5.0))
        assert plain.patches is not None
        assert guided.patches is not None

        assert torch.equal(plain.patches[::2, 0], guided.patches[::2, 0])
        assert not torch.equal(plain.patches, guided.patches)

    def test_the_factor_follows_the_side(self) -> None:
        """Mosaics from 128 px on."""
        assert [factor_for(side) for side in (32, 64, 127, 128, 224)] == [1, 1, 1, 2, 2]


class TestRefusals:
    """Before any work, with what to type."""

    def test_a_class_that_is_too_small(self) -> None:
        """24 images a class, 8 x 4 patches."""
        with pytest.raises(DataError, match="too few patches for the mosaics: --ipc 8 with 2 x 2 patches takes 32 im"):
            run(Rded(factor=2), stub_problem(side=8, ipc=8))

    def test_a_pool_that_is_too_small(self) -> None:
        """The class has enough."""
        with pytest.raises(UsageError, match=r"takes 20 images, 'pool' is 19"):
            run(Rded(factor=2, pool=19), stub_problem(side=8, ipc=5))

    def test_cells_without_a_pixel(self) -> None:
        """More patches in a row than pixels."""
        with pytest.raises(UsageError, match="'factor' is 9, expected at most 8"):
            run(Rded(factor=9), stub_problem(side=8))

    def test_whitened_images(self, make_problem: MakeProblem) -> None:
        """A crop has no whitening of its own."""
        space = Space("zca", (), (), zca=object())  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="ZCA-whitened"):
            run(Rded(), make_problem(space=space))


class Counted:
    """Pixels that say how many images were asked for at once, as a lazily read file would."""

    def __init__(self, pixels: Tensor) -> None:
        self.whole, self.most, self.read = pixels, 0, 0
        self.shape, self.device = pixels.shape, pixels.device

    def __getitem__(self, index: Tensor) -> Tensor:
        self.most, self.read = max(self.most, len(index)), self.read + len(index)
        return self.whole[index]


def test_only_the_pools_images_are_read_and_some_at_a_time() -> None:
    """Memory does not depend on the size of the data set."""
    whole = stub_problem(side=8, per_class=200)
    counted: Any = Counted(whole.pixels)
    fields = {name: getattr(whole, name) for name in ("labels", "classes", "space", "ipc", "arch", "flip", "teacher")}
    problem = Problem(pixels=counted, **fields, device=whole.device, seed=whole.seed, backbones=whole.backbones)
    method = Rded(pool=12, crops=600)
    lazily = run(method, problem)

    assert counted.read == 3 * 12 + 3 * 2
    assert counted.most <= 2
    assert torch.equal(pixels_of(lazily), pixels_of(run(method, whole)))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data file of 4 classes that differ by colour and by the side of a bright square, 16 px."""
    source = np.random.Generator(np.random.PCG64(0))
    colours = source.integers(90, 166, (4, 1, 1, 1, 3))

    def images(count: int) -> Any:
        noise = source.integers(-90, 90, (4, count, 16, 16, 3))
        return (colours + noise).clip(0, 255).astype(np.uint8).reshape(-1, 16, 16, 3)

    path = tmp_path_factory.mktemp("shapes") / "shapes.npz"
    np.savez(
        path,
        train_images=images(60),
        train_labels=np.repeat(np.arange(4), 60),
        test_images=images(40),
        test_labels=np.repeat(np.arange(4), 40),
    )
    return path


def test_bundles_say_which_crops_their_mosaics_are_made_of(shapes: Path, run_cli: RunCli, tmp_path: Path) -> None:
    """Through the command line: pixels are those of the crops in the table, of images of their class."""
    teacher, output, data = tmp_path / "t.ddset", tmp_path / "r.ddset", f"npz:{shapes}"
    net = ("--arch", "convnet-d1-w8-bn", "--epochs", "2", "--set", "lr=0.1", "--set", "batch=32")
    outcome = run_cli("train-teacher", "--data", data, *net, "-o", teacher)
    assert outcome.code == 0, outcome.err
    asked = ("--method", "rded", "--ipc", "2", "--set", "factor=2", "--set", "pool=20", "--set", "crops=2")
    outcome = run_cli("distill", "--data", data, *asked, "--teacher", teacher, "--self-test", "0", "-o", output)
    assert outcome.code == 0, outcome.err
    bundle = Bundle.open(output)
    patches, pixels = bundle.tensor("scores.mosaic.patches"), bundle.tensor("images.pixels")
    train = load(data, size=None, validation=0.1).train

    assert (8, 4, 4) == tuple(patches.shape)
    assert bundle.tensor("scores.mosaic.losses").shape == (8, 4)
    sources = train.labels[patches[..., 0].long()]
    assert torch.equal(sources, torch.arange(4).repeat_interleave(2)[:, None].expand(8, 4))
    image, top, left, side = patches[5, 2].tolist()
    crop = train.pixels[image : image + 1, :, top : top + side, left : left + side].float()
    cell = functional.interpolate(crop, (8, 8), mode="bilinear", antialias=True)[0]
    assert (cell - pixels[5, :, 8:, :8].float()).abs().max() <= 0.51


@pytest.mark.slow
@pytest.mark.real_images
@pytest.mark.skipif("DDLABEL_TEST_DATA" not in os.environ, reason="DDLABEL_TEST_DATA names no folder of real images")
def test_mosaics_with_one_soft_label_beat_random_images_with_hard_labels(run_cli: RunCli, tmp_path: Path) -> None:
    """The mean of three seeds, on photographs of 16 px: on made-up shapes, random images say as much as chosen ones."""
    teacher, mosaics, soft, plain, scored, other = (tmp_path / f"{name}.ddset" for name in "tmspab")
    data = ("--data", f"folder:{os.environ['DDLABEL_TEST_DATA']}/imagenette-64.tar")
    real, net = (*data, "--size", "16"), ("--arch", "convnet-d2-w32-bn")
    training = ("--epochs", "6", "--set", "lr=0.1", "--set", "batch=64", "--set", "momentum=0.9")
    student = ("--epochs", "100", "--seeds", "3", "--protocol", "dm")
    commands = (
        ("train-teacher", *real, *net, *training, "-o", teacher),
        ("distill", *real, "--method", "rded", "--ipc", "5", "--teacher", teacher, "-o", mosaics),
        ("distill", *real, "--method", "random", "--ipc", "5", "-o", plain),
        ("augment-labels", mosaics, "--teacher", teacher, "--kind", "soft", "-o", soft),
        ("evaluate", soft, *data, *net, *student, "--labels", "soft", "-o", scored),
        ("evaluate", plain, *data, *net, *student, "--labels", "hard", "-o", other),
    )
    for command in commands:
        outcome = run_cli(*command)
        assert outcome.code == 0, outcome.err
    ours, theirs = (Bundle.open(path).manifest.evaluations[-1] for path in (scored, other))

    assert mean_accuracy(ours) > mean_accuracy(theirs)


def mean_accuracy(evaluation: Any) -> float:
    (result,) = evaluation["results"]
    return float(result["accuracy"]["mean"])


def pixels_of(distilled: Distilled) -> Tensor:
    assert distilled.pixels is not None
    return distilled.pixels


def stub_problem(*, side: int, ipc: int = 2, per_class: int = 24) -> Problem:
    """Noise with gradients, so that crops differ, and a net in closed form."""
    source = generator(0, "stub")
    count = 3 * per_class
    ramps = torch.rand(count, 3, 1, side, generator=source) * torch.rand(count, 3, side, 1, generator=source)
    pixels = (255 * (ramps + 0.2 * torch.rand(count, 3, side, side, generator=source)).clamp(0, 1)).to(torch.uint8)
    return Problem(
        pixels=pixels,
        labels=torch.arange(count) % 3,
        classes=("red", "green", "blue"),
        space=Space("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        ipc=ipc,
        arch="convnet-d1-w4-bn",
        flip=True,
        teacher=None,
        device=torch.device("cpu"),
        seed=0,
        backbones=(Bright(),),
    )

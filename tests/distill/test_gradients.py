"""Distances between gradients by hand, and the gradient of a distance against central differences in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.augment._augment import Step, apply
from ddlabel.distill._gradients import class_gradients, distance, left_out, match_gradients, matched
from ddlabel.errors import UsageError
from ddlabel.nets._net import Net
from ddlabel.nets._net import build as build_net
from ddlabel.seeding import generator

KINDS = ("ours", "mse", "cos")
SMOOTH = "convnet-d2-w4-instance-swish"
CROP = Step("crop", {"down": torch.tensor([1]), "right": torch.tensor([-1])})
COLOR = Step("color", {name: torch.tensor([0.7]) for name in ("brightness", "saturation", "contrast")})
SHAPES = {"conv": (6, 3, 3, 3), "norm": (6,), "layer norm": (6, 8, 8), "linear": (5, 24), "bias": (5,)}
ROWS = 6 + 6 + 5


def some_net(arch: str = SMOOTH) -> Net:
    return build_net(arch, channels=3, size=8, classes=3, generator=generator(0, "net")).double()


def some_images(count: int, name: str = "images") -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=generator(0, name), dtype=torch.float64)


def some_gradient(name: str = "gradient") -> list[Tensor]:
    """One tensor of every kind, rows of norm 1 or more."""
    source = generator(0, name)
    return [3 * torch.randn(shape, generator=source, dtype=torch.float64) for shape in SHAPES.values()]


class TestDistance:
    """Closed forms."""

    def test_a_gradient_is_at_no_distance_from_itself(self) -> None:
        """At most 1e-6 per row, from the constant beside the norms."""
        gradient = some_gradient()

        assert 0 <= float(distance(gradient, gradient, "ours")) <= 1e-6 * ROWS
        assert float(distance(gradient, gradient, "mse")) == 0
        assert pytest.approx(0, abs=1e-6) == float(distance(gradient, gradient, "cos"))

    def test_the_opposite_is_at_two_per_row(self) -> None:
        """Cosine -1; `mse` gives four times the squared norm."""
        gradient = some_gradient()
        opposite = [-tensor for tensor in gradient]

        assert pytest.approx(2 * ROWS, rel=1e-6) == float(distance(gradient, opposite, "ours"))
        assert pytest.approx(2, rel=1e-6) == float(distance(gradient, opposite, "cos"))
        squared = sum(float(tensor.square().sum()) for tensor in gradient)
        assert pytest.approx(4 * squared) == float(distance(gradient, opposite, "mse"))

    def test_ours_equals_a_loop_over_rows(self) -> None:
        """Rows of the first axis; tensors of one axis contribute nothing."""
        left, right = some_gradient("left"), some_gradient("right")
        expected = 0.0
        for a, b in zip(left, right, strict=True):
            for row_a, row_b in zip(a, b, strict=True) if a.ndim > 1 else ():
                x, y = row_a.flatten().tolist(), row_b.flatten().tolist()
                dot = math.fsum(p * q for p, q in zip(x, y, strict=True))
                expected += 1 - dot / (math.hypot(*x) * math.hypot(*y) + 1e-6)

        assert pytest.approx(expected, rel=1e-12) == float(distance(left, right, "ours"))

    def test_changing_biases_and_norms_alone_changes_nothing_for_ours(self) -> None:
        """The other two see them."""
        left = some_gradient()
        right = [tensor + 1 if tensor.ndim == 1 else tensor for tensor in left]
        moved = {kind: float(distance(left, right, kind)) - float(distance(left, left, kind)) for kind in KINDS}

        assert moved["ours"] == 0
        assert moved["mse"] == pytest.approx(11)
        assert moved["cos"] > 1e-4

    def test_scaling_a_tensor_changes_nothing_for_ours(self) -> None:
        """To 1e-6 per row."""
        left, right = some_gradient("left"), some_gradient("right")
        scaled = [7 * tensor for tensor in right]

        assert abs(float(distance(left, right, "ours") - distance(left, scaled, "ours"))) <= 1e-6 * ROWS

    @pytest.mark.parametrize(("norm", "expected"), [(1.0, 1e-6), (1e-3, 0.5), (0.0, 1.0)])
    def test_the_constant_beside_the_norms_is_kept(self, norm: float, expected: float) -> None:
        """Rows of norm 1e-3 are at 0.5 from themselves, those of zeros at 1, as in the authors' code."""
        row = torch.zeros(1, 4, dtype=torch.float64)
        row[0, 2] = norm

        assert pytest.approx(expected, rel=1e-5) == float(distance([row], [row], "ours"))

    @pytest.mark.parametrize("other", [0.0, 1.0])
    def test_rows_of_zeros_have_a_finite_gradient(self, other: float) -> None:
        """No 0/0 in the backward pass: minus the other row over the constant, which is zero when both are."""
        row = torch.zeros(1, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(distance([row], [torch.full((1, 4), other)], "ours"), row)

        assert gradient.tolist() == [[pytest.approx(-1e6 * other)] * 4]


class TestMatched:
    """What is compared."""

    def test_ours_takes_four_of_fourteen_tensors_of_convnet_d3(self) -> None:
        """128 + 128 + 128 + k rows."""
        net = build_net("convnet-d3", channels=3, size=32, classes=10, generator=generator(0))
        compared = matched(net, "ours")

        assert [len(parameter) for parameter in compared.parameters] == [128, 128, 128, 10]
        assert compared.first_rows == (0, 0, 0, 0)
        assert len(matched(net, "mse").parameters) == 14

    @pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9])
    def test_shallow_rows_are_left_out_as_a_walk_over_all_scalars_says(self, alpha: float) -> None:
        """A row goes when the flat index of its first scalar is below floor(alpha P), biases counted."""
        net = some_net()
        total = sum(parameter.numel() for parameter in net.parameters())
        expected, index = [], 0
        for name, parameter in net.named_parameters():
            for row in range(len(parameter)):
                if parameter.ndim > 1 and not index < math.floor(alpha * total):
                    expected.append((name, row))
                index += parameter[row].numel()
        compared = matched(net, "ours", alpha)
        names = {id(parameter): name for name, parameter in net.named_parameters()}
        pairs = zip(compared.parameters, compared.first_rows, strict=True)

        assert expected == [(names[id(p)], row) for p, first in pairs for row in range(first, len(p))]

    def test_leaving_out_rows_drops_their_terms(self) -> None:
        """The distance of what stays."""
        left, right = some_gradient("left")[3:4], some_gradient("right")[3:4]
        whole = float(distance(left, right, "ours"))
        first = float(distance([left[0][:2]], [right[0][:2]], "ours"))

        assert pytest.approx(whole - first) == float(distance(left, right, "ours", (2,)))

    def test_a_share_that_leaves_nothing_is_refused(self) -> None:
        """Only biases would stay."""
        with pytest.raises(UsageError, match=r"option 'mask_shallow' is 0\.999, which leaves no row"):
            matched(some_net(), "ours", 0.999)


def by_definition(net: Net, images: Tensor, steps: tuple[Step, ...], target: list[Tensor], kind: str) -> Tensor:
    """The distance with the whole graph, over all parameters."""
    labels = torch.ones(len(images), dtype=torch.int64)
    loss = functional.cross_entropy(net(apply(images, steps)), labels)
    gradient = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    return distance(gradient, target, kind).detach()


class TestMatchGradients:
    """Distance and its gradient by the images, of one class."""

    @pytest.mark.parametrize("steps", [(), (CROP,), (COLOR,)], ids=["plain", "crop", "colour"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_gradient_equals_finite_differences(self, kind: str, steps: tuple[Step, ...]) -> None:
        """Central differences of the definition along three random directions, on a net without kinks."""
        net, images = some_net(), some_images(5)
        everything = list(net.parameters())
        whole = class_gradients(net, some_images(6, "real"), 1, everything, 6)
        compared = matched(net, kind)
        target = class_gradients(net, some_images(6, "real"), 1, compared.parameters, 6)
        value, gradient = match_gradients(net, images, 1, steps, target, compared, kind=kind)

        assert pytest.approx(float(by_definition(net, images, steps, whole, kind)), rel=1e-10) == value
        for index in range(3):
            way = torch.randn(images.shape, generator=generator(index, "direction"), dtype=torch.float64)
            up, down = (float(by_definition(net, images + s * 1e-5 * way, steps, whole, kind)) for s in (1, -1))
            assert pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9) == float((gradient * way).sum())

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("microbatch", [1, 2, 3, 6, 7, 9])
    def test_micro_batched_equals_direct(self, microbatch: int, kind: str) -> None:
        """Exact in float64, also when the last part is smaller."""
        net, images = some_net(), some_images(7)
        compared = matched(net, kind)
        target = class_gradients(net, some_images(4, "real"), 1, compared.parameters, 4)
        direct, micro = (
            match_gradients(net, images, 1, (COLOR,), target, compared, kind=kind, microbatch=size)
            for size in (None, microbatch)
        )

        assert pytest.approx(direct[0], rel=1e-10) == micro[0]
        torch.testing.assert_close(micro[1], direct[1], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("arch", ["convnet-d2-w4-layer", "convnet-d1-w4-none-max", "mlp", "convnet-d2-w4-group"])
    def test_any_norm_that_keeps_images_apart_can_be_micro_batched(self, arch: str) -> None:
        """And an MLP."""
        net, images = some_net(arch), some_images(5)
        compared = matched(net, "ours")
        target = class_gradients(net, some_images(4, "real"), 1, compared.parameters, 4)
        direct, micro = (match_gradients(net, images, 1, (), target, compared, microbatch=size) for size in (None, 2))

        torch.testing.assert_close(micro, direct, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("chunk", [1, 3, 8, 100])
    def test_gradients_of_real_images_do_not_depend_on_the_chunk(self, chunk: int) -> None:
        """Mean over images, not over chunks."""
        net, images = some_net(), some_images(8)
        parameters = list(net.parameters())
        expected = torch.autograd.grad(functional.cross_entropy(net(images), torch.full((8,), 2)), parameters)

        torch.testing.assert_close(
            class_gradients(net, images, 2, parameters, chunk), list(expected), rtol=1e-10, atol=1e-12
        )

    def test_the_images_and_the_net_are_not_changed(self) -> None:
        """Nor do they start to record gradients."""
        net, images = some_net(), some_images(5)
        before = images.clone()
        target = class_gradients(net, images, 1, matched(net, "ours").parameters, 2)
        for microbatch in (None, 2):
            match_gradients(net, images, 0, (CROP,), target, matched(net, "ours"), microbatch=microbatch)

        assert torch.equal(before, images)
        assert not images.requires_grad
        assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("share", "count", "dropped"), [(0.29, 100, 29), (0.5, 7, 3), (0.25, 320_010, 80_002), (0, 5, 0)]
)
def test_a_share_is_taken_in_decimals(share: float, count: int, dropped: int) -> None:
    """0.29 * 100 is 28.999999999999996 in binary: the first compared row of 100 rows of one weight is 29."""
    compared = matched(torch.nn.Linear(1, count, bias=False), "ours", share)

    assert dropped == left_out(share, count) == compared.first_rows[0]

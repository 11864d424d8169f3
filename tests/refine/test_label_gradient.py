"""How labels change the distance of gradients: Fact D against two derivatives, those against differences (float64)."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ddlabel.distill import _dual
from ddlabel.distill._gradients import class_gradients, distance
from ddlabel.distill._student import Privileged
from ddlabel.nets._net import Net, build
from ddlabel.privileged._form import Form, make_form
from ddlabel.privileged._objective import Norm, Objective
from ddlabel.refine._label_gradient import Labelled, encoder_rows, label_gradients, reduced_tangent
from ddlabel.seeding import generator

CLASSES, SIDE, COUNT = 3, 8, 4
FORMS = [(None, "avg"), *itertools.product(("spatial", "channel"), ("avg", "max"))]


def make_net(arch: str) -> Net:
    """In float64; batch norms have seen some images and hold their statistics."""
    net = build(arch, channels=3, size=SIDE, classes=CLASSES, generator=generator(0, "net")).double()
    net.train()
    with torch.no_grad():
        net(draw((8, 3, SIDE, SIDE), "seen"))
    return net.eval()


def draw(shape: tuple[int, ...], name: str) -> Tensor:
    return torch.randn(shape, generator=generator(0, name), dtype=torch.float64)


def form_of(arch: str, layer: str, attention: str | None, pool: str) -> Form:
    return make_form(arch, channels=3, size=SIDE, classes=CLASSES, layer=layer, attention=attention, pool=pool)


def labelled(form: Form, objective: Objective, **more: bool) -> Privileged:
    norm = Norm(draw(form.shape, "mean"), 0.5 + draw(form.shape, "scale").abs())
    labels = draw((COUNT, *form.shape), "labels")
    return Privileged(labels=labels, hard=torch.ones(COUNT).long(), form=form, objective=objective, norm=norm, **more)


def both_ways(net: Net, one: Privileged, mirrored: Tensor | None = None) -> list[tuple[float, Tensor]]:
    images = draw((COUNT, 3, SIDE, SIDE), "images")
    compared = encoder_rows(net)
    target = class_gradients(net, draw((6, 3, SIDE, SIDE), "real"), 1, compared.parameters, 6)
    part = Labelled(images, one.hard, mirrored)
    other = Privileged(**{**one.__dict__, "labels": one.labels.flip(0)})
    return [label_gradients(net, part, target, compared, [one, other], shortcut=way) for way in (True, False)]


def assert_agree(pair: list[tuple[float, Tensor]]) -> None:
    (value, slope), (expected, exact) = pair

    assert value == pytest.approx(expected, rel=1e-12)
    assert float(exact.norm()) > 0
    assert float((slope - exact).norm() / exact.norm()) < 1e-10


@pytest.mark.parametrize("layer", ["1", "2", "3"])
@pytest.mark.parametrize(("attention", "pool"), FORMS)
@pytest.mark.parametrize("norm", ["none", "zscore"])
def test_one_pass_forward_is_the_derivative(layer: str, attention: str | None, pool: str, norm: str) -> None:
    """Fact D, by hand-carried tangents: every layer, form and norm of instance-normed ConvNets, two labels at once."""
    arch = "convnet-d3-w4"
    form = form_of(arch, layer, attention, pool)

    assert_agree(both_ways(make_net(arch), labelled(form, Objective(lambda_reg=1.5, norm=norm))))


@pytest.mark.parametrize(
    "arch", ["convnet-d2-w4-bn", "convnet-d2-w4-swish", "convnet-d2-w4-max", "convnet-d2-w4-none", "mlp"]
)
@pytest.mark.parametrize(("attention", "pool"), [(None, "avg"), ("channel", "max")])
def test_other_nets_take_torchs_forward_mode(arch: str, attention: str | None, pool: str) -> None:
    """Fact D where batch norm holds its statistics, with other activations and poolings, and for vectors."""
    if attention and arch == "mlp":
        pytest.skip("vectors are not pooled")
    form = form_of(arch, "last", attention, pool)

    assert_agree(both_ways(make_net(arch), labelled(form, Objective(lambda_reg=0.7))))


def test_mirrored_labels_have_the_derivative_of_what_they_stand_for() -> None:
    """With `label_aug=hflip`, derivatives go back through the mirror."""
    net, form = make_net("convnet-d2-w4"), form_of("convnet-d2-w4", "1", None, "avg")
    mirrored = torch.tensor([True, False, True, True])
    flipped = both_ways(net, labelled(form, Objective(), mirror=True), mirrored)

    assert_agree(flipped)
    assert not torch.equal(flipped[0][1], both_ways(net, labelled(form, Objective(), mirror=True))[0][1])


TERMS = [{}, {"metric": "cosine"}, {"metric": "mmd"}, {"norm": "l2"}, {"ce": 0.3, "infonce": 0.2, "supcon": 0.2}]


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_two_derivatives_are_central_differences(terms: dict[str, float | str]) -> None:
    """Every objective, along a random direction in the labels."""
    arch = "convnet-d1-w4-swish"
    net, form = make_net(arch), form_of(arch, "last", None, "avg")
    one = labelled(form, Objective(lambda_reg=2.0, **terms))  # type: ignore[arg-type]
    images, compared = draw((COUNT, 3, SIDE, SIDE), "images"), encoder_rows(net)
    target = class_gradients(net, draw((6, 3, SIDE, SIDE), "real"), 1, compared.parameters, 6)
    part = Labelled(images, one.hard, None)
    along = draw(tuple(one.labels.shape), "along")
    _value, slope = label_gradients(net, part, target, compared, [one], shortcut=False)

    def value(step: float) -> float:
        maps, logits = net.tap(images, form.layer)
        moved = one.rows(torch.arange(COUNT), one.labels + step * along)
        current = torch.autograd.grad(part.loss(logits) + moved.loss(maps, None), compared.parameters)
        return float(distance(current, target, "ours"))

    numeric = (value(1e-5) - value(-1e-5)) / 2e-5

    assert float((slope[0] * along).sum()) == pytest.approx(numeric, rel=1e-6)


def test_the_shortcut_refuses_what_is_not_affine() -> None:
    """It would be wrong, silently."""
    net, form = make_net("convnet-d1-w4"), form_of("convnet-d1-w4", "last", None, "avg")
    with pytest.raises(ValueError, match="affine"):
        both_ways(net, labelled(form, Objective(metric="cosine")))


def test_the_classifier_is_not_compared() -> None:
    """Fact C: no label changes its gradient, so its rows would only add a constant."""
    net = make_net("convnet-d2-w4")
    shapes = [tuple(parameter.shape) for parameter in encoder_rows(net).parameters]

    assert shapes == [(4, 3, 3, 3), (4, 4, 3, 3)]


def test_tangents_of_features_are_central_differences() -> None:
    """The direction moves encoder weights alone."""
    net, form = make_net("convnet-d2-w4"), form_of("convnet-d2-w4", "2", "channel", "max")
    images, weights = draw((COUNT, 3, SIDE, SIDE), "images"), encoder_rows(net).parameters
    along = [draw(tuple(weight.shape), f"along{index}") for index, weight in enumerate(weights)]
    moving = {id(weight): direction for weight, direction in zip(weights, along, strict=True)}
    with torch.no_grad():
        kept = _dual.Kept(net, [parameter.detach() for parameter in net.parameters()], images)
        directions = [moving.get(id(parameter), torch.zeros_like(parameter)) for parameter in net.parameters()]
        slope = reduced_tangent(form, *kept.tangent(directions, 2))

    def features(step: float) -> Tensor:
        with torch.no_grad():
            for weight, direction in zip(weights, along, strict=True):
                weight += step * direction
            found = form.reduce(net.tap(images, 2)[0])
            for weight, direction in zip(weights, along, strict=True):
                weight -= step * direction
        return found

    torch.testing.assert_close(slope, (features(1e-6) - features(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-7)

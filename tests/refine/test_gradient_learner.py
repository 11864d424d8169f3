"""Labels learned by gradient matching against the definition: one graph of everything, torch's own optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distill._gradients import distance
from ddlabel.distill._method import State, check, run
from ddlabel.distill._real import RealBatches
from ddlabel.errors import UsageError
from ddlabel.nets._net import Net, build
from ddlabel.options import build as build_record
from ddlabel.privileged._scale import encoder_parameters, fresh_ratios
from ddlabel.refine import _initial
from ddlabel.refine._feature_options import images_per_class
from ddlabel.refine._initial import net_in
from ddlabel.refine._learner import Learned, Lesson, rms
from ddlabel.refine.dcpi import REFINEMENT, LabelLearning
from ddlabel.seeding import generator

MakeLesson = Callable[..., Lesson]
QUICK: dict[str, Any] = {"steps": 2, "outer": 2, "inner": 2, "batch_real": 12, "batch_train": 6}


def quick(**changes: Any) -> LabelLearning:
    return LabelLearning(**(QUICK | changes))


def learn(method: LabelLearning, lesson: Lesson) -> Learned:
    learned = run(method, lesson)
    assert isinstance(learned, Learned)
    return learned


def begin(method: LabelLearning, lesson: Lesson) -> State:
    return method.prepare(lesson, generator(lesson.seed, "distill", "prepare"))


def by_definition(lesson: Lesson, method: LabelLearning, state: State) -> Tensor:
    """Spec of the learner, with whole classes as real batches: J of all classes and labels, one backward pass each."""
    labels = state["features"].clone().requires_grad_()
    optimizer = torch.optim.SGD([labels], lr=0.1, momentum=0.5)
    form, weight, images = method.form(lesson), method.task_weight(lesson), lesson.images
    for index in range(method.steps):
        source = generator(lesson.seed, "distill", "step", index)
        net = build(lesson.arch, channels=3, size=8, classes=3, generator=source)
        training = torch.optim.SGD(net.parameters(), lr=method.lr_net)
        for loop in range(method.outer or 1):
            encoder, total = encoder_parameters(net), torch.zeros(())
            for k in range(method.k):
                for label in range(3):
                    real = lesson.space.encode(lesson.pixels[lesson.labels == label])
                    own, hard = labels[k, 2 * label : 2 * label + 2], torch.tensor([label, label])
                    loss = functional.cross_entropy(net(real), torch.full((len(real),), label))
                    wanted = torch.autograd.grad(loss, encoder)
                    maps, logits = net.tap(images[2 * label : 2 * label + 2], form.layer)
                    loss = functional.cross_entropy(logits, hard)
                    loss = loss + method.lambda_reg * (form.reduce(maps) - own).square().mean()
                    given = torch.autograd.grad(loss, encoder, create_graph=True)
                    total = total + distance(given, wanted, "ours")
                    if weight:
                        said = functional.cross_entropy(net.rest(own, form.layer), hard)
                        total = total + weight * said
            optimizer.zero_grad()
            (labels.grad,) = torch.autograd.grad(total, labels)
            optimizer.step()
            for _epoch in range((method.inner or 1) * (loop + 1 < (method.outer or 1))):
                training.zero_grad()
                maps, logits = net.tap(images, form.layer)
                mean = labels.detach().mean(0)
                loss = functional.cross_entropy(logits, lesson.hard)
                (loss + method.lambda_reg * (form.reduce(maps) - mean).square().mean()).backward()
                training.step()
    return labels.detach()


CASES = [
    {},
    {"k": 3, "lambda_task": 0.5},
    {"layer": "1", "lambda_reg": 2.0, "exact": "double"},
    {"lambda_reg": 5.0, "kind": "attention"},
    {"lambda_reg": 5.0, "kind": "attention", "attention": "channel", "pool": "max"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_is_the_definition(case: dict[str, Any], make_lesson: MakeLesson) -> None:
    """Both loops of two steps; K labels are each matched by their own gradient, and the net trains on their mean."""
    options = dict(case)
    lesson = make_lesson(kind=options.pop("kind", "feature"))
    method = quick(store="all" if options.get("k", 1) > 1 else "mean", **options)
    expected = by_definition(lesson, method, begin(method, lesson))

    learned = learn(method, lesson)

    torch.testing.assert_close(learned.values.transpose(0, 1), expected, rtol=1e-4, atol=1e-5)
    assert learned.metrics["movement"] > 1e-3


def test_first_labels_are_features_after_one_epoch(make_lesson: MakeLesson) -> None:
    """K nets of their own, whose heads are kept; the same seed gives the same bits."""
    method, lesson = quick(k=2), make_lesson()
    state = begin(method, lesson)
    net = method.first_net(lesson, state, 1)
    fresh = build(lesson.arch, channels=3, size=8, classes=3, generator=generator(0, "distill", "prepare"))

    assert torch.equal(state["features"][1], net.tap(lesson.images, 2)[0])
    assert not torch.equal(state["features"][0], state["features"][1])
    assert not torch.equal(net_in(state, 0, fresh).tap(lesson.images, 2)[0], state["features"][1])
    assert all(torch.equal(value, begin(method, lesson)[name]) for name, value in state.items())


def test_noise_and_teachers_begin_labels_too(make_lesson: MakeLesson) -> None:
    """Noise keeps no net; a teacher's features are its own."""
    net = build("convnet-d2-w4", channels=3, size=8, classes=3, generator=generator(9, "t")).eval()
    noise = begin(quick(init="noise", k=3), make_lesson())
    taught = begin(quick(init="teacher"), make_lesson(nets=(net,)))

    assert float(noise["features"].std()) == pytest.approx(1, abs=0.1)
    assert not [name for name in noise if name.startswith("net")]
    assert torch.equal(taught["features"][0], net.tap(make_lesson().images, 2)[0])


def test_without_regression_matching_leaves_labels_alone(make_lesson: MakeLesson) -> None:
    """lambda_reg 0: the matched gradient does not see labels, so that a run of nothing else is refused."""
    method, lesson = quick(lambda_reg=0.0, lambda_task=0.0), make_lesson()
    state = begin(method, lesson)
    moved, metrics = method.step(lesson, state, 0, generator(0, "step"))

    assert torch.equal(moved["features"], state["features"])
    assert 0 == metrics["movement"]
    with pytest.raises(UsageError, match="nothing would move the labels"):
        check(method, lesson)
    for option in ({"lambda_task": 0.01}, {"supcon": 0.1}, {"ce": 0.1}):
        check(quick(**{"lambda_reg": 0.0, "lambda_task": 0.0} | option), lesson)


@pytest.mark.parametrize("outer", [1, 2])
def test_the_head_is_the_nets_own(outer: int, make_lesson: MakeLesson) -> None:
    """Asked twice it says the same, and it is not drawn anew: that of the first net where the current is untrained."""
    method, lesson = quick(outer=outer), make_lesson()
    state = begin(method, lesson)
    current = build(lesson.arch, channels=3, size=8, classes=3, generator=generator(3, "net"))
    pulled, _right = method._read(lesson, state, current, trains=outer > 1)
    reader: Net = current if outer > 1 else method.first_net(lesson, state, 0)
    leaf = state["features"][0].clone().requires_grad_()
    value = 0.01 * functional.cross_entropy(reader.classify(leaf.flatten(1)), lesson.hard) * 3

    torch.testing.assert_close(pulled[0], torch.autograd.grad(value, leaf)[0])
    assert torch.equal(pulled, method._read(lesson, state, current, trains=outer > 1)[0])


@pytest.mark.parametrize("outer", [1, 2])
def test_a_large_task_weight_makes_labels_of_their_class(outer: int, make_lesson: MakeLesson) -> None:
    """200 steps by the head of the net that gave them, or by that of the current net once it was trained."""
    method, lesson = quick(outer=outer, lambda_task=10.0), make_lesson()
    state = begin(method, lesson)
    net = method.first_net(lesson, state, 0)
    if outer > 1:
        net = build(lesson.arch, channels=3, size=8, classes=3, generator=generator(7, "net"))
        method._train(lesson, state, net, torch.optim.SGD(net.parameters(), lr=0.01), 2, generator(0, "train"))
    before, entropy = method.read(lesson, [net], state["features"])
    for _step in range(200):
        pulled, _right = method._read(lesson, state, net, trains=outer > 1)
        state = {**state, **method.move_labels(state, pulled)}
    after = method.read(lesson, [net], state["features"])

    assert before < 1
    assert 1.0 == after[0]
    assert after[1] < 0.1 * entropy


def test_the_result_says_how_its_first_nets_read_first_and_last_labels(make_lesson: MakeLesson) -> None:
    """By the heads of the nets that gave them, one for each of K; and in a sentence, which warns of idle labels."""
    method, lesson = quick(k=2, store="all", lambda_task=5.0), make_lesson()
    state, learned = begin(method, lesson), learn(method, lesson)
    nets, last = [method.first_net(lesson, state, k) for k in range(2)], learned.values.transpose(0, 1)
    found = [method.read(lesson, nets, values) for values in (state["features"], last)]
    names = ("first_label_accuracy", "first_label_cross_entropy", "label_accuracy", "label_cross_entropy")
    by_hand = [functional.cross_entropy(net.rest(own, 2), lesson.hard) for net, own in zip(nets, last, strict=True)]

    assert [learned.metrics[name] for name in names] == pytest.approx([*found[0], *found[1]], rel=1e-5)
    assert float(torch.stack(by_hand).mean().detach()) == pytest.approx(found[1][1], rel=1e-5)
    assert found[1][1] < found[0][1]
    assert f"moved by {learned.metrics['movement']:.2%}" in method.summary(learned.metrics)
    assert "next to nothing" not in method.summary(learned.metrics)
    assert "next to nothing" in method.summary(learn(quick(lr_feat=1e-9), lesson).metrics)


def test_real_images_train_first_nets_and_no_others(make_lesson: MakeLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap of a real epoch in every loop: K nets are trained at the start; between loops a net sees the set."""
    calls, between = [], []
    train, own = _initial.train, LabelLearning._train
    monkeypatch.setattr(_initial, "train", lambda *given, **named: (calls.append(1), train(*given, **named))[1])
    monkeypatch.setattr(LabelLearning, "_train", lambda *given: (between.append(1), own(*given))[1])

    learn(quick(k=2, steps=2, outer=3), make_lesson())

    assert (2, 2 * 2) == (len(calls), len(between))


@pytest.mark.parametrize("options", [{}, {"feat_opt": "adam", "k": 2, "norm": "zscore", "tune_images": True}], ids=str)
def test_a_stopped_run_goes_on_to_the_same_bits(options: dict[str, Any], make_lesson: MakeLesson) -> None:
    """Two steps, the state, two more; states are not changed by later steps."""
    method, lesson = quick(steps=4, **options), make_lesson()
    states: dict[int, State] = {}
    whole = run(method, lesson, on_checkpoint=lambda done, state: states.update({done: state}))
    kept = {name: tensor.clone() for name, tensor in states[2].items()}

    again = run(method, lesson, start=(2, kept))

    assert isinstance(whole, Learned)
    assert isinstance(again, Learned)
    assert torch.equal(whole.values, again.values)
    assert whole.metrics == again.metrics
    assert all(torch.equal(kept[name], states[2][name]) for name in kept)


def test_images_are_moved_as_dc_moves_them(make_lesson: MakeLesson) -> None:
    """Cross entropy on both sides and all parameters: labels have no say in images before a net was trained on them."""
    lesson = make_lesson()
    tuned = [
        learn(quick(outer=1, steps=1, tune_images=True, lambda_reg=weight), lesson).images for weight in (0.5, 5.0)
    ]
    method = quick(outer=1, steps=1)._images()
    images = lesson.images.clone().requires_grad_()
    source = generator(0, "distill", "step", 0)
    net = build(lesson.arch, channels=3, size=8, classes=3, generator=source)
    total = torch.zeros(())
    for label in range(3):
        real, own = lesson.space.encode(lesson.pixels[lesson.labels == label]), images[2 * label : 2 * label + 2]
        sides = [functional.cross_entropy(net(side), torch.full((len(side),), label)) for side in (real, own)]
        wanted, given = (torch.autograd.grad(side, list(net.parameters()), create_graph=True) for side in sides)
        total = total + distance(given, [tensor.detach() for tensor in wanted], "ours")
    expected = images - method.image_rate(lesson) * torch.autograd.grad(total, images)[0]

    assert tuned[0] is not None
    assert tuned[1] is not None
    assert torch.equal(tuned[0], tuned[1])
    torch.testing.assert_close(tuned[0], expected.detach(), rtol=1e-4, atol=1e-5)
    assert learn(quick(), lesson).images is None


def test_adam_moves_labels_by_a_hundredth_of_their_size(make_lesson: MakeLesson) -> None:
    """Its first step is the rate, whatever the gradient's scale; then as torch's."""
    method, lesson = quick(feat_opt="adam"), make_lesson()
    state = begin(method, lesson)
    labels = state["features"].clone().requires_grad_()
    optimizer = torch.optim.Adam([labels], lr=0.01 * rms(labels.detach()), eps=1e-20)
    for index in range(3):
        gradient = torch.randn(labels.shape, generator=generator(index, "gradient")) * 1e-4
        labels.grad = gradient
        optimizer.step()
        state = {**state, **method.move_labels(state, gradient)}

    torch.testing.assert_close(state["features"], labels.detach(), rtol=1e-5, atol=1e-7)


def test_relative_weights_pull_as_asked(make_lesson: MakeLesson) -> None:
    """lambda_mode=relative: the weight that the section stores has the ratio that was asked for."""
    method, lesson = quick(lambda_mode="relative", lambda_reg=0.2), make_lesson()
    learned, state = learn(method, lesson), begin(method, lesson)
    ratios = fresh_ratios(
        lesson.images, lesson.hard, state["features"][0], learned.form, method.terms, classes=3, seed=0
    )

    assert 0.2 == pytest.approx(learned.parameters["lambda_reg"] * sorted(ratios)[2], rel=1e-5)
    assert learned.metrics["pull"] == pytest.approx(0.2, rel=1e-5)
    assert method.warning(state) is None
    assert "hardly count" in str(method.warning(begin(quick(lambda_reg=1e-6), lesson)))


def test_stored_labels_are_the_mean_or_all_of_them(make_lesson: MakeLesson) -> None:
    """And never negative with `nonneg`."""
    lesson = make_lesson()
    every, mean = (learn(quick(k=3, k_train="random", nonneg=True, store=store), lesson) for store in ("all", "mean"))

    assert (6, 3, 4, 2, 2) == tuple(every.values.shape)
    torch.testing.assert_close(every.values.mean(1, keepdim=True), mean.values)
    assert float(every.values.min()) >= 0


@pytest.mark.parametrize("arch", ["convnet-d1-w4-bn", "mlp"])
def test_other_nets_learn_too(arch: str, make_lesson: MakeLesson) -> None:
    """Batch norm holds its statistics while matching; vectors have a head as well. Further terms have an effect."""
    plain = learn(quick(lambda_task=0.5), make_lesson(arch=arch))
    terms = learn(quick(lambda_task=0.5, infonce=0.5, supcon=0.5), make_lesson(arch=arch))

    assert plain.metrics["movement"] > 0
    assert not torch.equal(plain.values, terms.values)


def test_soft_labels_join_the_nets_loss(make_lesson: MakeLesson) -> None:
    """The bundle's soft labels change what labels of features are learned."""
    soft = torch.randn(6, 3, generator=generator(0, "soft")).log_softmax(1)
    values = [learn(quick(soft=weight), make_lesson(soft=soft)).values for weight in (0.0, 1.0)]

    assert not torch.equal(*values)


REFUSED = [
    ({"attention": "spatial"}, {}, "attention is 'spatial', but --labels feature are not pooled"),
    ({"pool": "max"}, {}, "not pooled"),
    ({"lambda_task": 0.1}, {"kind": "attention"}, "attention labels are pooled; expected 0"),
    ({"init": "teacher"}, {}, "as many nets by --teacher, not 0"),
    ({"init_checkpoint": "1"}, {}, "init is 'one-epoch', not teacher"),
    ({"store": "all"}, {}, "store is 'all', but k is 1"),
    ({"k_train": "random"}, {}, "k_train is 'random', but k is 1"),
    ({"feat_opt": "adam", "momentum_feat": 0.9}, {}, "momentum_feat is for sgd"),
    ({"lambda_mode": "relative", "lambda_reg": 0.0}, {}, "a ratio above 0"),
    ({"label_aug": "hflip", "augment": "dsa", "attention": "channel"}, {"kind": "attention"}, "does not notice"),
    ({"init": "noise", "task_head": "init"}, {}, "which no net gave"),
    ({"soft": 1.0}, {}, "no soft labels"),
    ({"label_aug": "hflip"}, {}, "no image is mirrored"),
    ({"label_aug": "hflip", "augment": "dsa"}, {"flip": False}, "no image is mirrored"),
    ({"exact": "jvp", "metric": "mmd"}, {}, "metric=mse"),
    ({"layer": "3"}, {}, "no layer '3'"),
    ({"norm": "l2", "attention": "spatial"}, {"kind": "attention"}, "works over channels"),
]


@pytest.mark.parametrize(("options", "changes", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_options_that_cannot_work_are_refused_before_any_work(
    options: dict[str, Any], changes: dict[str, Any], message: str, make_lesson: MakeLesson
) -> None:
    """Each with what is wrong."""
    with pytest.raises(UsageError, match=message):
        check(quick(**options), make_lesson(**changes))


@pytest.mark.parametrize("option", [{"k": 0}, {"lambda_reg": -1.0}, {"lambda_task": -1.0}, {"lr_feat": 0.0}], ids=str)
def test_values_out_of_bounds_are_refused(option: dict[str, float]) -> None:
    """By the options' own bounds."""
    with pytest.raises(UsageError, match=next(iter(option))):
        build_record(REFINEMENT, option)


def test_notes_and_memory_say_what_will_happen(make_lesson: MakeLesson) -> None:
    """An epoch of real images comes first; two derivatives and more labels take more memory."""
    lesson = make_lesson()

    assert "for an epoch on all real images" in " ".join(quick(k=2).notes(lesson))
    assert "infonce and supcon images of one class alone" in " ".join(quick(infonce=0.1, supcon=0.1).notes(lesson))
    assert "leaves supcon nothing to compare" in " ".join(quick(supcon=0.1).notes(make_lesson(ipc=1)))
    assert "change nothing: lr_images" in " ".join(quick(lr_images=0.2).notes(lesson))
    assert "lr_images" not in " ".join(quick(lr_images=0.2, tune_images=True).notes(lesson))
    assert quick(batch_real=1, init="noise").memory(lesson) < quick(batch_real=1, init="noise", k=50).memory(lesson)


def test_sets_of_unequal_classes_are_refused() -> None:
    """Labels are matched class by class."""
    from ddlabel.errors import BundleError

    assert 2 == images_per_class(torch.tensor([0, 0, 1, 1]), 2, "set")
    for labels in ([0, 1, 0, 1], [0, 0, 0, 1], [1, 1, 0, 0], []):
        with pytest.raises(BundleError, match="in order of class"):
            images_per_class(torch.tensor(labels), 2, "set")


FIXED = [("feature", None, 0.10), ("attention", "spatial", 0.05), ("attention", "channel", 0.02)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "attention", "share"), FIXED)
def test_labels_learned_for_a_fixed_net_align_its_gradient(
    kind: str, attention: str | None, share: float, make_lesson: MakeLesson
) -> None:
    """60 Adam steps at lambda_reg 5 on one net and fixed real batches: the distance falls, the cosine rises."""
    lesson = make_lesson(kind=kind, arch="convnet-d2-w16-instance")
    method = quick(lambda_reg=5.0, feat_opt="adam", attention=attention)
    state = begin(method, lesson)
    net = build(lesson.arch, channels=3, size=8, classes=3, generator=generator(0, "net"))
    distances, before = [], cosine_with_real(lesson, method, state, net)
    for _step in range(61):
        batches = RealBatches(lesson, build_augmentation("none"), 12, generator(0, "batches"))
        value, gradient = method._match(lesson, state, net, batches)
        distances.append(value)
        last = state
        state = {**state, **method.move_labels(state, gradient)}

    assert distances[-1] < (1 - share) * distances[0]
    assert cosine_with_real(lesson, method, last, net) > before + share / 10


def cosine_with_real(lesson: Lesson, method: LabelLearning, state: State, net: Net) -> float:
    """Mean over classes of the cosine of the encoder's gradients by all real images, and by the set and its labels."""
    form, encoder, found = method.form(lesson), encoder_parameters(net), []
    for label in range(3):
        real, rows = lesson.space.encode(lesson.pixels[lesson.labels == label]), slice(2 * label, 2 * label + 2)
        loss = functional.cross_entropy(net(real), torch.full((len(real),), label))
        maps, logits = net.tap(lesson.images[rows], form.layer)
        own = functional.cross_entropy(logits, lesson.hard[rows])
        own = own + method.lambda_reg * (form.reduce(maps) - state["features"][0, rows]).square().mean()
        both = [torch.cat([part.flatten() for part in torch.autograd.grad(side, encoder)]) for side in (loss, own)]
        found.append(functional.cosine_similarity(*both, dim=0))
    return float(torch.stack(found).mean())

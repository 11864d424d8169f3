"""The one supervised loop: teachers, students and their schedules.

A run is a pure function of (net, sampler, recipe, loss, augmentation, seed, seed path): epoch e draws its data order
from the stream (*path, "epoch", e) and its augmentation from (*path, "augment", e). So data order does not depend on
the augmentation, and a run continued from any `TrainState` gives the bits of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from . import seeding
from .augment._augment import Augmentation, apply, flips
from .data._stored_pixels import Pixels
from .errors import DivergedError
from .events import Event, OnEvent, ignore
from .losses._loss import Loss, Targets, loss_of_epoch
from .nets._dropout import advance, random_layers
from .schedules import Recipe, loss_factor, rate, restarts
from .sharpness import flat_gradient, frozen_statistics, input_gradient_penalty
from .space import Space

__all__ = [
    "Batch",
    "Encoder",
    "Recipe",
    "Respond",
    "Sampler",
    "TrainState",
    "accuracy",
    "encoded_bytes",
    "encoder",
    "minibatches",
    "predict",
    "rate",
    "train",
]

N = TypeVar("N", bound=nn.Module)
Batch = tuple[Tensor, Targets]
"""Images (b, c, h, w) float32 in model-input space, and what the net should say of them."""
Sampler = Callable[[int, Generator], Iterator[Batch]]
"""Gives the batches of an epoch, from 0; all its randomness comes from the generator or its own named streams."""
Encoder = Callable[[Tensor], Tensor]
"""Gives the images (m, c, h, w) float32 in model-input space of indices (m,) int64."""
Respond = Callable[[Tensor, Targets, Generator], tuple[Tensor, Targets]]
"""Acts last on an augmented batch, on the device: what is trained on, with which targets (CutMix, a live teacher)."""

TEST_BATCH = 256
"""Images in one forward pass when scoring: fixed, so that scores do not depend on a machine's memory."""
ENCODED_BYTES = 2**30
"""Largest float32 copy of a training split: up to it, images that are ZCA-whitened or trained on elsewhere than the CPU
are encoded once rather than batch by batch."""
_ENCODED_TOGETHER = 1000
EMA_DECAY = 0.995
"""Largest decay of the average of weights."""


@dataclass(frozen=True)
class TrainState:
    """A run after an epoch: enough to continue it bit for bit.

    The tensors are those of the running net, which go on changing: `copy` the state to keep it.
    """

    epoch: int
    """Epochs finished, from 1."""
    loss: float
    """Mean training loss of the epoch."""
    net: Mapping[str, Tensor]
    """Parameters and buffers by name."""
    optimizer: Mapping[str, Tensor]
    """Slots of the optimiser, named `<parameter>:<slot>`."""
    average: Mapping[str, Tensor]
    """Averaged parameters and buffers; empty without `Recipe.ema`."""

    def copy(self) -> TrainState:
        """The same state in memory of its own."""
        return TrainState(self.epoch, self.loss, *map(_cloned, (self.net, self.optimizer, self.average)))


def train(
    net: N,
    sampler: Sampler,
    recipe: Recipe,
    loss: Loss,
    augmentation: Augmentation,
    *,
    seed: int,
    seed_path: tuple[str | int, ...],
    on_event: OnEvent = ignore,
    on_epoch: Callable[[TrainState], None] | None = None,
    start: TrainState | None = None,
    respond: Respond | None = None,
) -> N:
    """Train a net in place and return it.

    Args:
        net: on its device; its parameters are changed. One that gives the loss more than logits names as `bare` the
            part of it that gives logits alone, which is what penalties on inputs are of.
        sampler: the batches of each epoch, images (b, c, h, w) float32 in model-input space, on any device.
        recipe: optimiser, schedule, epochs; its `batch` is the sampler's business.
        loss: of logits and targets; one with `at_epoch` may change from epoch to epoch.
        augmentation: applied to every batch with parameters per sample.
        seed, seed_path: name the run's streams.
        on_event: told of every step; what it raises stops the run.
        on_epoch: given the state after each epoch, always finite; the net then holds the weights of that epoch.
        start: a state of the same run to continue from.
        respond: acts on every augmented batch, with draws from the augmentation's stream; none where it is None.

    Returns:
        The net in eval mode with its last weights, or with averaged ones when the recipe says `ema`.

    Raises:
        DivergedError: a loss or a weight is not finite, naming epoch, value and the option to lower. The states given
            to `on_epoch` before are good.
    """
    optimizer = _make_optimizer(net, recipe)
    average: dict[str, Tensor] = {}
    if start is not None:
        _restore(net, optimizer, start)
        average = _cloned(start.average)
    for epoch in range(start.epoch if start else 0, recipe.rounds):
        if restarts(recipe, epoch):
            optimizer = _make_optimizer(net, recipe)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate(recipe, epoch)
        batches = sampler(epoch, seeding.generator(seed, *seed_path, "epoch", epoch))
        draws = seeding.generator(seed, *seed_path, "augment", epoch)
        objective = _Objective(net, loss_of_epoch(loss, epoch), recipe, loss_factor(recipe, epoch))
        reporter = _Reporter(recipe, epoch, on_event)
        mean = _run_epoch(objective, batches, optimizer, augmentation, draws, reporter, respond)
        if recipe.ema:
            _update_average(average, net.state_dict(), min(EMA_DECAY, 1 - 1 / (1 + epoch)))
        if on_epoch is not None:
            on_epoch(TrainState(epoch + 1, mean, net.state_dict(), _slots(net, optimizer), average))
        on_event(Event(phase="training", done=epoch + 1, total=recipe.rounds, metrics={"loss": mean}))
    if average:
        net.load_state_dict(average)
    return net.eval()


def minibatches(
    pixels: Pixels,
    labels: Tensor,
    *,
    batch: int,
    space: Space,
    device: torch.device | str = "cpu",
    subset: Callable[[int], Tensor] | None = None,
    encode: Encoder | None = None,
) -> Sampler:
    """Sampler over real uint8 pixels (n, c, h, w) with hard labels (n,), each image once per epoch.

    Args:
        pixels, labels: the training split.
        batch: images in a step; the last one of an epoch may have fewer.
        space: of the net's input.
        device: where the batches go.
        subset: indices (m,) int64 into the split that an epoch, from 0, sees; the whole split when None.
        encode: the `encoder` of these pixels, to share its copy; one is made when None.
    """
    place = torch.device(device)
    images = encode or encoder(pixels, space, place)

    def sample(epoch: int, generator: Generator) -> Iterator[Batch]:
        seen = torch.arange(len(labels)) if subset is None else subset(epoch)
        for chosen in torch.split(torch.randperm(len(seen), generator=generator), batch):
            index = seen[chosen]
            yield images(index), Targets(labels[index.to(labels.device)].to(place), None, None, None)

    return sample


def encoder(pixels: Pixels, space: Space, device: torch.device) -> Encoder:
    """Gives images in model-input space, on the device, of uint8 pixels (n, c, h, w) by index.

    They are encoded when they are needed, on the device, so that no float copy of a data set exists, unless encoding is
    dear (ZCA) or the device is another one than the CPU, and the copy is of at most `ENCODED_BYTES`.
    """
    placed = space.on(device)
    whole = functools.cache(lambda: _encode_all(pixels, placed, device))
    once = encoded_bytes(pixels, space, device) > 0
    return lambda index: (
        whole()[index.to(device)] if once else placed.encode(pixels[index.to(pixels.device)].to(device))
    )


def encoded_bytes(pixels: Pixels, space: Space, device: torch.device) -> int:
    """Bytes of the float copy that an `encoder` keeps on the device; 0 when it keeps none."""
    size = pixels.numel() * torch.float32.itemsize
    dear = space.zca is not None or device.type != "cpu"
    return size if dear and size <= ENCODED_BYTES else 0


def predict(net: nn.Module, pixels: Pixels, *, space: Space | None = None, batch: int = TEST_BATCH) -> Tensor:
    """Logits (n, k) in eval mode, on the CPU; the net's mode is kept.

    Args:
        net: any classifier.
        pixels: (n, c, h, w) uint8 pixels; without `space`, float32 images in model-input space.
        space: encodes pixels batch by batch.
        batch: images in one forward pass.
    """
    device = next(net.parameters()).device
    placed = None if space is None else space.on(device)
    chunks = (chunk.to(device) for chunk in pixels.split(batch))
    with _evaluating(net):
        return torch.cat([net(chunk if placed is None else placed.encode(chunk)).cpu() for chunk in chunks])


def accuracy(
    net: nn.Module, pixels: Pixels, labels: Tensor, *, space: Space | None = None, batch: int = TEST_BATCH
) -> float:
    """Top-1 accuracy in [0, 1] on pixels or images, as in `predict`, with labels (n,)."""
    if len(labels) == 0:
        raise ValueError("accuracy of no images")
    guesses = predict(net, pixels, space=space, batch=batch).argmax(dim=1)
    return float((guesses == labels.cpu()).double().mean())


@dataclass(frozen=True)
class _Reporter:
    """Says how an epoch goes, and stops it when its numbers do not make sense."""

    recipe: Recipe
    epoch: int
    on_event: OnEvent

    def step(self, index: int, loss: float) -> None:
        """Announce the loss of a step."""
        if not math.isfinite(loss):
            raise self.diverged(f"training loss is {loss}", f"step {index + 1}")
        self.on_event(Event(phase="training", done=self.epoch, total=self.recipe.rounds, metrics={"loss": loss}))

    def weights(self, net: nn.Module) -> None:
        """Refuse weights that are not finite."""
        values = net.state_dict()
        if math.isfinite(sum(value.sum() for value in values.values())):
            return  # one number that is not finite would show in the sum; the sum alone may overflow
        for name, value in values.items():
            if not bool(torch.isfinite(value).all()):
                raise self.diverged(f"'{name}' is not finite", "its last step")

    def diverged(self, what: str, step: str) -> DivergedError:
        more = f" or rho (now {self.recipe.rho:g})" if self.recipe.optimizer == "gsam" else ""
        where = f"epoch {self.epoch + 1} of {self.recipe.rounds}, {step}"
        return DivergedError(f"{what} in {where}", field="lr", hint=f"lower --set lr (now {self.recipe.lr:g}){more}")


@dataclass(frozen=True)
class _Objective:
    """What a step makes smaller in one epoch."""

    net: nn.Module
    loss: Loss
    recipe: Recipe
    factor: float

    def __call__(self, plain: Tensor, images: Tensor, targets: Targets) -> Tensor:
        """The scalar of a batch, images (b, c, h, w) before and after augmentation."""
        value = self.loss(self.net(images), targets)
        if self.factor != 1:
            value = self.factor * value
        if self.recipe.gradient_penalty:
            bare = getattr(self.net, "bare", self.net)
            value = value + self.recipe.gradient_penalty * input_gradient_penalty(bare, plain)
        return value

    def again(self, plain: Tensor, images: Tensor, targets: Targets) -> None:
        """Add the gradient of the same batch once more, leaving running statistics alone."""
        with frozen_statistics(self.net):
            self(plain, images, targets).backward()


def _run_epoch(
    objective: _Objective,
    batches: Iterator[Batch],
    optimizer: Optimizer,
    augmentation: Augmentation,
    draws: Generator,
    reporter: _Reporter,
    respond: Respond | None,
) -> float:
    """One pass over the data; the mean loss over its steps."""
    net, recipe = objective.net, objective.recipe
    device = next(net.parameters()).device
    losses, layers = [], random_layers(net)
    net.train()
    for index, (images, targets) in enumerate(batches):
        height, width = images.shape[2:]
        steps = augmentation.draw(len(images), height, width, draws)
        if targets.privileged is not None:
            targets = dataclasses.replace(targets, mirrored=flips(steps, len(images)))
        plain = images.to(device)
        images, targets = apply(plain, steps), targets.to(device)
        if respond is not None:
            images, targets = respond(images, targets, draws)
        batch = (plain, images, targets)
        value = objective(*batch)
        losses.append(float(value.detach()))
        reporter.step(index, losses[-1])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if recipe.optimizer == "gsam":
            again = functools.partial(objective.again, *batch)
            flat_gradient(list(net.parameters()), again, rho=recipe.rho, alpha=recipe.alpha, adaptive=recipe.adaptive)
        optimizer.step()
        advance(layers)
    reporter.weights(net)
    return math.fsum(losses) / max(1, len(losses))


def _make_optimizer(net: nn.Module, recipe: Recipe) -> Optimizer:
    groups = _parameter_groups(net, recipe)
    if recipe.optimizer in {"sgd", "gsam"}:
        return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = Adam if recipe.optimizer == "adam" else AdamW
    return kind(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


def _parameter_groups(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters that decay, and those that do not."""
    parameters = list(net.parameters())
    if recipe.decay == "all":
        return [{"params": parameters}]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [group for group in ({"params": weights}, {"params": others, "weight_decay": 0.0}) if group["params"]]


def _slots(net: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The tensors that an optimiser keeps between steps."""
    return {
        f"{name}:{slot}": value
        for name, parameter in net.named_parameters()
        for slot, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def _restore(net: nn.Module, optimizer: Optimizer, start: TrainState) -> None:
    """Copy a state into a net and its optimiser."""
    net.load_state_dict(dict(start.net))
    order = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {name: order.index(id(parameter)) for name, parameter in net.named_parameters()}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in start.optimizer.items():
        name, _, slot = key.rpartition(":")
        slots.setdefault(numbers[name], {})[slot] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def _update_average(average: dict[str, Tensor], state: Mapping[str, Tensor], decay: float) -> None:
    """GLaD's average of weights, once per epoch; integer buffers are copied."""
    for name, value in state.items():
        if name in average and value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name] = value.clone()


def _encode_all(pixels: Pixels, space: Space, device: torch.device) -> Tensor:
    """A whole split in model-input space, (n, c, h, w) float32 on the device."""
    with torch.inference_mode(False), torch.no_grad():
        images = torch.empty(pixels.shape, dtype=torch.float32, device=device)
        for target, chunk in zip(images.split(_ENCODED_TOGETHER), pixels.split(_ENCODED_TOGETHER), strict=True):
            target.copy_(space.encode(chunk.to(device)))
    return images


@contextlib.contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    mode = net.training
    net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        net.train(mode)


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}

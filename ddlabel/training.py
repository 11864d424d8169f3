"""The one supervised loop: teachers, students and their schedules.

A run is a pure function of (net, sampler, recipe, loss, augmentation, seed, seed path): epoch e draws its data order
from the stream (*path, "epoch", e) and its augmentation from (*path, "augment", e). So data order does not depend on
the augmentation, and a run continued from any `TrainState` gives the bits of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from . import seeding
from .augment._augment import Augmentation, apply
from .errors import DivergedError
from .events import Event, OnEvent, ignore
from .losses._loss import Loss, Targets, loss_of_epoch
from .options import opt
from .space import Space

__all__ = ["Batch", "Recipe", "Sampler", "TrainState", "accuracy", "minibatches", "predict", "rate", "train"]

N = TypeVar("N", bound=nn.Module)
Batch = tuple[Tensor, Targets]
"""Images (b, c, h, w) float32 in model-input space, and what the net should say of them."""
Sampler = Callable[[int, Generator], Iterator[Batch]]
"""Gives the batches of an epoch, from 0; all its randomness comes from the generator or its own named streams."""

TEST_BATCH = 256
"""Images in one forward pass when scoring: fixed, so that scores do not depend on a machine's memory."""
WARMUP_START = 1e-7
"""First factor of the `glad` schedule."""
EMA_DECAY = 0.995
"""Largest decay of the average of weights."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained."""

    optimizer: str = opt("sgd", "sgd, adam (L2 decay) or adamw (decoupled decay)", choices=("sgd", "adam", "adamw"))
    lr: float = opt(0.01, "learning rate before the schedule", above=0)
    momentum: float = opt(0.0, "momentum of sgd; adam and adamw keep betas 0.9 and 0.999", min=0, below=1)
    weight_decay: float = opt(0.0, "weight decay", min=0)
    schedule: str = opt(
        "constant",
        "learning rate over time: constant, cosine, half-cosine (RDED), step (DC), gift, glad",
        choices=("constant", "cosine", "half-cosine", "step", "gift", "glad"),
    )
    epochs: int = opt(50, "epochs E; 'step' runs E + 1, as its authors do", min=1, max=1_000_000)
    batch: int = opt(256, "samples per step", min=1, max=1_000_000)
    augment: str = opt("dsa", "augmentation: none, flip, crop-flip, resized-crop, dsa, dsa-composite")
    ema: bool = opt(False, "return weights averaged over epochs (GLaD)")
    decay: str = opt(
        "all",
        "what weight decay acts on: all parameters, or weights, those with more than one axis (no biases, no norms)",
        choices=("all", "weights"),
    )

    @property
    def rounds(self) -> int:
        """Epochs that are really run: DC's loop counts from 0 to E inclusive."""
        return self.epochs + 1 if self.schedule == "step" else self.epochs


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
) -> N:
    """Train a net in place and return it.

    Args:
        net: on its device; its parameters are changed.
        sampler: the batches of each epoch, images (b, c, h, w) float32 in model-input space, on any device.
        recipe: optimiser, schedule, epochs; its `batch` is the sampler's business.
        loss: of logits and targets; one with `at_epoch` may change from epoch to epoch.
        augmentation: applied to every batch with parameters per sample.
        seed, seed_path: name the run's streams.
        on_event: told of every step; what it raises stops the run.
        on_epoch: given the state after each epoch, always finite; the net then holds the weights of that epoch.
        start: a state of the same run to continue from.

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
        if _restarts(recipe, epoch):
            optimizer = _make_optimizer(net, recipe)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate(recipe, epoch)
        batches = sampler(epoch, seeding.generator(seed, *seed_path, "epoch", epoch))
        draws = seeding.generator(seed, *seed_path, "augment", epoch)
        now, reporter = loss_of_epoch(loss, epoch), _Reporter(recipe, epoch, on_event)
        mean = _run_epoch(net, batches, optimizer, now, augmentation, draws, reporter)
        if recipe.ema:
            _update_average(average, net.state_dict(), min(EMA_DECAY, 1 - 1 / (1 + epoch)))
        if on_epoch is not None:
            on_epoch(TrainState(epoch + 1, mean, net.state_dict(), _slots(net, optimizer), average))
        on_event(Event(phase="training", done=epoch + 1, total=recipe.rounds, metrics={"loss": mean}))
    if average:
        net.load_state_dict(average)
    return net.eval()


def rate(recipe: Recipe, epoch: int) -> float:
    """Factor of the learning rate in an epoch, from 0, of a recipe of E epochs.

    `cosine`: to 0 over E. `half-cosine`: the first half of a cosine over 2E, to 1/2 (RDED). `step`: 0.1 after epoch
    E//2+1. `gift`: 0.2 at 2E//3 and again at 5E//6. `glad`: linear from 1e-7 to 1 over E//2 epochs, held for one more,
    then cosine to 0 over E//2.

    Differs from the authors' code in: nothing; the held epoch is GLaD's scheduler being switched one step late.
    """
    length, half = recipe.epochs, max(1, recipe.epochs // 2)
    if recipe.schedule == "step":
        return 0.1 if epoch > length // 2 + 1 else 1.0
    if recipe.schedule == "gift":
        return float(0.2 ** ((epoch >= 2 * length // 3) + (epoch >= 5 * length // 6)))
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / length))
    if recipe.schedule == "half-cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / (2 * length)))
    if recipe.schedule == "glad" and epoch <= half:
        return WARMUP_START + (1 - WARMUP_START) * epoch / half
    if recipe.schedule == "glad":
        return 0.5 * (1 + math.cos(math.pi * (epoch - half - 1) / half))
    return 1.0


def minibatches(
    pixels: Tensor, labels: Tensor, *, batch: int, space: Space, device: torch.device | str = "cpu"
) -> Sampler:
    """Sampler over real uint8 pixels (n, c, h, w) with hard labels (n,), each image once per epoch.

    A batch is encoded when it is needed, on the device, so that no float copy of a data set exists.
    """

    def sample(epoch: int, generator: Generator) -> Iterator[Batch]:
        del epoch
        for index in torch.split(torch.randperm(len(labels), generator=generator), batch):
            chosen = pixels[index.to(pixels.device)].to(device)
            yield space.encode(chosen), Targets(labels[index.to(labels.device)].to(device), None, None, None)

    return sample


def predict(net: nn.Module, pixels: Tensor, *, space: Space | None = None, batch: int = TEST_BATCH) -> Tensor:
    """Logits (n, k) in eval mode, on the CPU; the net's mode is kept.

    Args:
        net: any classifier.
        pixels: (n, c, h, w) uint8 pixels; without `space`, float32 images in model-input space.
        space: encodes pixels batch by batch.
        batch: images in one forward pass.
    """
    device = next(net.parameters()).device
    chunks = (chunk.to(device) for chunk in torch.split(pixels, batch))
    with _evaluating(net):
        return torch.cat([net(chunk if space is None else space.encode(chunk)).cpu() for chunk in chunks])


def accuracy(
    net: nn.Module, pixels: Tensor, labels: Tensor, *, space: Space | None = None, batch: int = TEST_BATCH
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
        for name, value in net.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                raise self.diverged(f"'{name}' is not finite", "its last step")

    def diverged(self, what: str, step: str) -> DivergedError:
        where = f"epoch {self.epoch + 1} of {self.recipe.rounds}, {step}"
        return DivergedError(f"{what} in {where}", field="lr", hint=f"lower --set lr (now {self.recipe.lr:g})")


def _run_epoch(
    net: nn.Module,
    batches: Iterator[Batch],
    optimizer: Optimizer,
    loss: Loss,
    augmentation: Augmentation,
    draws: Generator,
    reporter: _Reporter,
) -> float:
    """One pass over the data; the mean loss over its steps."""
    device = next(net.parameters()).device
    losses = []
    net.train()
    for index, (images, targets) in enumerate(batches):
        height, width = images.shape[2:]
        steps = augmentation.draw(len(images), height, width, draws)
        value = loss(net(apply(images.to(device), steps)), targets.to(device))
        losses.append(float(value.detach()))
        reporter.step(index, losses[-1])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    reporter.weights(net)
    return math.fsum(losses) / max(1, len(losses))


def _make_optimizer(net: nn.Module, recipe: Recipe) -> Optimizer:
    groups = _parameter_groups(net, recipe)
    if recipe.optimizer == "sgd":
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


def _restarts(recipe: Recipe, epoch: int) -> bool:
    """DC makes a new optimiser when the rate drops, which forgets the momentum."""
    return recipe.schedule == "step" and epoch == recipe.epochs // 2 + 2


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

"""DC: dataset condensation by gradient matching (Zhao, Mopuri & Bilen, ICLR 2021, arXiv:2006.05929)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.optim import SGD

from ..augment._augment import Augmentation, Step, apply
from ..augment._augment import build as build_augmentation
from ..errors import UsageError
from ..nets._net import Net, calibrate_norms, mixes_samples
from ..options import opt
from ._gradients import DISTANCES, class_gradients, match_gradients, matched
from ._memory import first_order_bytes, net_bytes, real_bytes, second_order_bytes, set_bytes
from ._method import Distilled, Problem, State
from ._real import RealBatches, class_labels, first_images, images_per_pass, match_by_class, net_on_meta, random_net

__all__ = ["LOOPS", "METHOD", "GradientMatching", "calibrate", "loops"]

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Published outer loops and inner epochs, by ipc."""
CALIBRATION = 16
"""Real images per class that batch norm takes its statistics from before matching."""


@dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Moves images so that the gradients they give a net in training agree with those of real images.

    A step takes a fresh net through `outer` loops. A loop matches, class by class, the gradient of the mean cross
    entropy of the distilled images with that of a real batch, takes one SGD step on the images, and then trains the
    net on them for `inner` epochs (not after the last loop). Loss: the sum over classes of the distance; the reported
    loss is divided by the number of classes and loops.

    Published: `lr_images` 0.1 for all nets but MLP, which has 0.01; ipc 1, 10, 20, 30, 40, 50 have 1, 10, 20, 30, 40,
    50 loops of 1, 50, 25, 20, 15, 10 epochs. Other budgets have none, and get our rule: min(ipc, 50) loops and
    500 epochs in all.

    Differs from the authors' code in: one backward pass per class and per micro-batch (the same gradient in less
    memory); loop counts for budgets that have none there; explicit seeds; the loop has `steps` steps where theirs has
    one more.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    memory_knobs: ClassVar[tuple[str, ...]] = ("microbatch", "batch_real", "batch_train")
    steps: int = opt(1000, "optimisation steps, each with a new random net", min=1, max=100_000_000)
    lr_images: float | None = opt(
        None, "SGD step on images in model-input space; auto is 0.1, or 0.01 for MLP as published", above=0
    )
    momentum: float = opt(0.5, "momentum of the images' SGD", min=0, below=1)
    lr_net: float = opt(0.01, "SGD step of the net between loops", above=0)
    batch_real: int = opt(256, "real images per class and loop, at most the class", min=1, max=1_000_000)
    batch_train: int = opt(256, "distilled images per step of the net between loops", min=1, max=1_000_000)
    outer: int | None = opt(None, "loops of a step; auto is the published count for the ipc", min=1, max=1_000_000)
    inner: int | None = opt(
        None, "epochs the net trains between loops; auto is the published count for the ipc", min=1, max=1_000_000
    )
    distance: str = opt(
        "ours", "between gradients: ours (1 - cosine, row by row), mse, or cos (all as one row)", choices=DISTANCES
    )
    init: str = opt("noise", "initial images: random real ones, or normal noise", choices=("real", "noise"))
    augment: str = opt("none", "augmentation, the same draw for real and distilled images", choices=("dsa", "none"))
    microbatch: int | None = opt(None, "distilled images per second-order pass; auto suits the device", min=1)
    mask_shallow: float = opt(0.0, "share of the shallowest gradient rows not matched (PAD)", min=0, below=1)

    def total_steps(self, problem: Problem) -> int:
        """The option `steps`."""
        del problem
        return self.steps

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """What the canvas starts from: (k*ipc, c, h, w) images.

        Raises:
            UsageError: `mask_shallow` that leaves nothing to match, or with a distance that has no rows.
        """
        if self.mask_shallow and self.distance != "ours":
            raise UsageError(
                f"option 'mask_shallow' is {self.mask_shallow:g}, but distance '{self.distance}' has no rows",
                field="mask_shallow",
                hint="use --set distance=ours",
            )
        matched(net_on_meta(problem), self.distance, self.mask_shallow)
        images = first_images(problem, self.init, generator)
        return problem.canvas.begin(images, class_labels(problem), generator)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """All loops of one random net."""
        del index
        net = random_net(problem, generator)
        augmentation = build_augmentation(self.augment, flip=problem.flip)
        batches = RealBatches(problem, augmentation, self.batch_real, generator)
        outer, inner = loops(problem.ipc, self.outer, self.inner)
        optimizer = SGD(net.parameters(), lr=self.lr_net)
        total = 0.0
        for loop in range(outer):
            loss, gradient = self.match(problem, net, problem.canvas.render(state), batches)
            moved = problem.canvas.descend(state, gradient, lr=self.image_rate(problem), momentum=self.momentum)
            state = {**state, **moved}
            total += loss
            if loop + 1 < outer:
                self._train(problem, net, optimizer, problem.canvas.render(state), augmentation, inner, generator)
        return state, {"loss": total / (len(problem.classes) * outer)}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The optimised images."""
        outer, inner = loops(problem.ipc, self.outer, self.inner)
        return Distilled(
            labels=class_labels(problem),
            images=problem.canvas.render(state).cpu(),
            metrics={"lr_images": self.image_rate(problem), "outer": outer, "inner": inner},
        )

    def memory(self, problem: Problem) -> int:
        """Peak bytes of a step, estimated.

        The images five times, the net and four gradients, a real batch twice, and the largest of three graphs: of a
        real part, of a distilled part to second order, of a training batch. A graph is taken half as large again for
        what a backward pass holds besides.
        """
        chunk = images_per_pass(problem)
        real = min(self.batch_real, chunk) * first_order_bytes(problem)
        distilled = min(problem.ipc, self.microbatch or chunk) * second_order_bytes(problem)
        training = min(len(problem.classes) * problem.ipc, self.batch_train) * first_order_bytes(problem)
        trains = loops(problem.ipc, self.outer, self.inner)[0] > 1
        graph = max(real, distilled, training * trains)
        return set_bytes(problem) + net_bytes(problem, 4) + real_bytes(problem, self.batch_real) + graph * 3 // 2

    def shares_steps(self, problem: Problem) -> bool:
        """Processes match classes of their own; the net between loops is trained by each of them."""
        del problem
        return True

    def notes(self, problem: Problem) -> tuple[str, ...]:
        """What a user should know before the first step."""
        found: list[str] = []
        if problem.ipc not in LOOPS and None in (self.outer, self.inner):
            outer, inner = loops(problem.ipc, self.outer, self.inner)
            found.append(
                f"no loops are published for ipc {problem.ipc}: taking outer={outer} inner={inner} by our rule"
            )
        if problem.arch.split("-")[0] == "resnet18":
            found.append("matching through ResNet18 is known to fail with published settings: distil through a ConvNet")
        return tuple(found)

    def image_rate(self, problem: Problem) -> float:
        """`lr_images`, or as published for the net."""
        if self.lr_images is not None:
            return self.lr_images
        return 0.01 if problem.arch.split("-")[0] == "mlp" else 0.1

    def match(self, problem: Problem, net: Net, images: Tensor, batches: RealBatches) -> tuple[float, Tensor]:
        """Sum of the distances of all classes, and its gradient by the images."""
        if mixes_samples(net):
            calibrate(net, batches)
        compared = matched(net, self.distance, self.mask_shallow)
        chunk = images_per_pass(problem)

        def match_class(label: int, real: Tensor, steps: tuple[Step, ...], own: Tensor) -> tuple[float, Tensor]:
            target = class_gradients(net, real, label, compared.parameters, chunk)
            return match_gradients(
                net,
                own,
                label,
                steps,
                target,
                compared,
                kind=self.distance,
                microbatch=self.microbatch or chunk,
            )

        return match_by_class(batches, images, match_class, net)

    def _train(
        self,
        problem: Problem,
        net: Net,
        optimizer: SGD,
        images: Tensor,
        augmentation: Augmentation,
        epochs: int,
        generator: Generator,
    ) -> None:
        """Train the net on the distilled images, with an augmentation drawn per image."""
        labels = class_labels(problem).to(images.device)
        height, width = images.shape[2:]
        net.train()
        for _epoch in range(epochs):
            for chosen in torch.split(torch.randperm(len(images), generator=generator), self.batch_train):
                index = chosen.to(images.device)
                steps = augmentation.draw(len(index), height, width, generator)
                optimizer.zero_grad()
                functional.cross_entropy(net(apply(images[index], steps)), labels[index]).backward()
                optimizer.step()


def loops(ipc: int, outer: int | None = None, inner: int | None = None) -> tuple[int, int]:
    """Loops of a step and epochs between them, as published for an ipc, or min(ipc, 50) loops and 500 epochs in all.

    Args:
        ipc: images per class.
        outer, inner: what the user chose; None takes the table or the rule.
    """
    published = LOOPS.get(ipc, (None, None))
    outer = outer or published[0] or min(ipc, 50)
    return outer, inner or published[1] or max(1, round(500 / outer))


def calibrate(net: Net, batches: RealBatches) -> None:
    """Let batch norm see real images of all classes once in train mode, then hold its statistics fixed."""
    images = [batches.plain(label, CALIBRATION) for label in range(len(batches.problem.classes))]
    calibrate_norms(net, torch.cat(images))


METHOD = GradientMatching

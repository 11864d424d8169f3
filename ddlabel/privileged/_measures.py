"""What a set of labels is like, as numbers: how well it tells classes apart, and how much it varies.

Labels are rows (n, d): flattened, one for each image; `hard` (n,) are their classes. DCPI (Fig. 3 of the paper) holds
that good labels lie between two ends: features of a converged net tell classes apart and vary little, noise varies in
every direction and tells nothing.

Discriminability, more is more discriminative:
- `fisher_ratio`: variance between classes over variance within, 0 to infinity. Undefined with one image in each class;
  `between_variance`, its numerator, is then all there is. It has the unit of the labels squared: compare labels of one
  net.
- `nearest_mean_accuracy`, 0 to 1: labels whose nearest mean of real features is that of their class; chance is 1 / k.
- `Head`: accuracy (0 to 1) and cross entropy (0 to infinity, ln k by chance) of labels under a linear head that was
  refitted on a net's real features. This and the one before compare labels with the features of some net: labels made
  by another net have another basis and score near chance, however good they are.

Diversity, more is more diverse:
- `within_class_spread`: mean 1 - cos of two labels of a class, 0 (all alike) to 2; about 1 for noise.
- `effective_rank`: exp of the entropy of the spectrum of the centred Gram matrix, 1 to min(n - 1, d); noise of many
  elements comes near the upper end.
- `vendi`: the same of the matrix of cosines / n, 1 (all alike) to n (all orthogonal).
- `uniformity`: log of the mean of exp(-2 |u - v|^2) over pairs on the sphere, 0 (all alike) to -8; about -4 for noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Head",
    "between_variance",
    "effective_rank",
    "fisher_ratio",
    "nearest_mean_accuracy",
    "principal_axes",
    "refit_head",
    "uniformity",
    "vendi",
    "within_class_spread",
]

RIDGE = 1e-3
"""Weight of half the squared weights of a refitted head: separable features have a finite fit."""
STEPS = 200
"""Most iterations of the fit."""
FLAT = 1e-12
"""Variance below this share of the mean square is rounding."""
LEAST_SCALE = 0.1
"""Least scale of a feature of `refit_head`, as a part of the rms scale: what hardly varies says hardly anything."""


def between_variance(labels: Tensor, hard: Tensor) -> float:
    """tr S_B: mean over labels of the squared distance from the mean of their class to the mean of all."""
    return _scatter(labels, hard)[0]


def fisher_ratio(labels: Tensor, hard: Tensor) -> float | None:
    """tr S_B / tr S_W: variance of the means of classes over mean variance within them; None where none vary within."""
    between, within = _scatter(labels, hard)
    floor = FLAT * float(labels.double().square().sum(1).mean())
    return between / within if within > floor else None


def nearest_mean_accuracy(labels: Tensor, hard: Tensor, real: Tensor, real_hard: Tensor) -> float:
    """Share of labels that are nearest, by Euclid, to the mean of the real features of their own class.

    Args:
        labels, hard: (n, d), (n,).
        real, real_hard: (m, d), (m,), of the same classes.
    """
    classes = torch.unique(real_hard)
    means = torch.stack([real[real_hard == label].double().mean(0) for label in classes])
    nearest = classes[torch.cdist(labels.double(), means).argmin(1)]
    return float((nearest == hard).double().mean())


@dataclass(frozen=True)
class Head:
    """A linear head on standardised features."""

    mean: Tensor
    """(d,) float64."""
    scale: Tensor
    """(d,) float64, positive."""
    weight: Tensor
    """(k, d) float64."""
    bias: Tensor
    """(k,) float64."""

    def score(self, labels: Tensor, hard: Tensor) -> tuple[float, float]:
        """Accuracy and cross entropy of labels (n, d) of classes (n,)."""
        logits = ((labels.double() - self.mean) / self.scale) @ self.weight.T + self.bias
        return float((logits.argmax(1) == hard).double().mean()), float(functional.cross_entropy(logits, hard))


def refit_head(real: Tensor, real_hard: Tensor, classes: int) -> Head:
    """Multinomial logistic regression on a net's features of real images, by L-BFGS from zero: no randomness.

    Args:
        real: (m, d).
        real_hard: (m,) in [0, k).
        classes: k.

    With more features than images the fit is done in the space that the images span, which holds the weights of the
    best head: the same head for less.
    """
    features = real.detach().double()
    mean, scale = features.mean(0), features.var(0, correction=0).sqrt()
    scale = scale.clamp_min(LEAST_SCALE * float(scale.square().mean().sqrt()) or 1.0)
    inputs = (features - mean) / scale
    span = torch.linalg.qr(inputs.T).Q if inputs.shape[1] > len(inputs) else None
    if span is not None:
        inputs = inputs @ span
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, device=inputs.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=inputs.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = functional.cross_entropy(inputs @ weight.T + bias, real_hard) + RIDGE / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    best = weight.detach() if span is None else weight.detach() @ span.T
    return Head(mean, scale, best, bias.detach())


def within_class_spread(labels: Tensor, hard: Tensor) -> float | None:
    """Mean 1 - cos over pairs of a class, then over classes; None where no class has two labels."""
    units = _units(labels)
    spreads = []
    for label in torch.unique(hard):
        rows = units[hard == label]
        if len(rows) > 1:
            cosines = rows @ rows.T
            pairs = len(rows) * (len(rows) - 1)
            spreads.append(1 - float((cosines.sum() - cosines.diagonal().sum()) / pairs))
    return sum(spreads) / len(spreads) if spreads else None


def effective_rank(labels: Tensor) -> float:
    """exp of the entropy of the spectrum of the centred Gram matrix; 1 if constant.

    Differs from the paper (Roy & Vetterli, EUSIPCO 2007) in: shares are of the eigenvalues of the Gram matrix, which
    are variances; theirs are of the singular values of the labels, their roots, by which weak directions count more.
    """
    centred = labels.double() - labels.double().mean(0)
    floor = FLAT * float(labels.double().square().sum())
    gram = centred @ centred.T
    return _exp_entropy(gram) if float(gram.diagonal().sum()) > floor else 1.0


def vendi(labels: Tensor) -> float:
    """Vendi score (Friedman & Dieng, TMLR 2023): exp of the entropy of the spectrum of the matrix of cosines / n."""
    units = _units(labels)
    return _exp_entropy(units @ units.T)


def uniformity(labels: Tensor) -> float | None:
    """log mean over pairs of exp(-2 |u - v|^2), u and v of length 1 (Wang & Isola, ICML 2020); None for one label."""
    if len(labels) < 2:
        return None
    units = _units(labels)
    pairs = torch.triu_indices(len(units), len(units), 1, device=units.device)
    squares = 2 - 2 * (units @ units.T)[pairs[0], pairs[1]]
    return float((-2 * squares).exp().mean().log())


def principal_axes(labels: Tensor, count: int = 2) -> tuple[Tensor, list[float]]:
    """Coordinates (n, count) float64 on the first principal axes, and the share of the variance that each explains.

    Signs are such that the coordinate of the largest size is positive; axes that do not exist have coordinates 0.
    """
    centred = labels.double() - labels.double().mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    values = values.clamp_min(0).flip(0)
    total = float(values.sum())
    if total <= FLAT * float(labels.double().square().sum()):
        return torch.zeros(len(labels), count, dtype=torch.float64), [0.0] * count
    points = (vectors.flip(1) * values.sqrt())[:, :count]
    points = points * points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
    shares = [float(value) / total for value in values[:count]]
    missing = count - points.shape[1]
    return functional.pad(points, (0, missing)).cpu(), shares + [0.0] * missing


def _scatter(labels: Tensor, hard: Tensor) -> tuple[float, float]:
    """tr S_B and tr S_W, each divided by n."""
    rows = labels.double()
    _classes, index = torch.unique(hard, return_inverse=True)
    counts = torch.bincount(index).double()
    sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64, device=rows.device).index_add(0, index, rows)
    means = (sums / counts[:, None])[index]
    between = (means - rows.mean(0)).square().sum(1).mean()
    return float(between), float((rows - means).square().sum(1).mean())


def _exp_entropy(gram: Tensor) -> float:
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    return float(torch.special.entr(values / values.sum()).sum().exp())


def _units(labels: Tensor) -> Tensor:
    """Rows of length 1, float64; a row of zeros stays."""
    return functional.normalize(labels.double(), dim=1)

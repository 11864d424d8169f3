"""What a layer of the teacher gives for each image, for students to regress on (DCPI, earlier DRUPI)."""

from __future__ import annotations

from dataclasses import dataclass

from ._privileged import PrivilegedKind

__all__ = ["KIND"]


@dataclass(frozen=True, kw_only=True)
class Feature(PrivilegedKind):
    """The output of a block after its pooling and activation, in eval mode: ConvNet-D3 at 32 px gives 128 x 4 x 4.

    Students see it while they train and never when they answer; `lambda_reg` weighs the regression against the loss
    on class labels.

    Differs from the authors' code in: features are taken in eval mode, where the code stays in train mode (the same
    with instance norm); the default teacher is the checkpoint of epoch 1, which the paper finds better than a
    converged one; several nets store their mean, which gives the same student gradient as all of their labels.
    """


KIND = Feature

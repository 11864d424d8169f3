"""FLOPs of nets against the table of LADD's figures and against a count by hand."""

from __future__ import annotations

import pytest

from ddlabel.nets._flops import TRAINING_STEP, forward_flops


@pytest.mark.parametrize(
    ("arch", "size", "classes", "millions"),
    [
        ("convnet-d3", 32, 10, 101.49),
        ("convnet-d3", 32, 100, 101.86),
        ("convnet-d4", 64, 200, 425.5),
        ("convnet-d5", 128, 10, 1717.6),
    ],
)
def test_published_counts(arch: str, size: int, classes: int, millions: float) -> None:
    """To the digits given."""
    count = forward_flops(arch, channels=3, size=size, classes=classes) / 1e6

    assert pytest.approx(millions, abs=0.05 if millions > 200 else 0.005) == count


def test_a_count_by_hand() -> None:
    """MLP of two hidden layers: multiply-adds count twice, biases not at all."""
    expected = 2 * (3 * 8 * 8 * 128 + 128 * 128 + 128 * 10)

    assert expected == forward_flops("mlp", channels=3, size=8, classes=10)


def test_strides_and_shortcuts_count_where_they_are() -> None:
    """ResNet18 at 64 px has a stem of stride 2: the same maps as at 32 px after it."""
    small, large = (forward_flops("resnet18", channels=3, size=size, classes=10) for size in (32, 64))

    assert small == large


def test_label_augmentation_of_ladd() -> None:
    """50 images x 25 views x ConvNetD5 at 128 px is the paper's 0.002 PFLOP; its labeler costs 0.67."""
    forward = forward_flops("convnet-d5", channels=3, size=128, classes=10)

    assert pytest.approx(0.00215, abs=5e-6) == 50 * 25 * forward / 1e15
    assert pytest.approx(0.67, abs=5e-3) == 10 * 13_000 * TRAINING_STEP * forward / 1e15

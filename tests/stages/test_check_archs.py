"""Nets that cannot take the images are refused before the first student is trained."""

from __future__ import annotations

import pytest

from ddlabel.config import EvaluateConfig
from ddlabel.data._dataset import DatasetInfo
from ddlabel.errors import UsageError
from ddlabel.stages._recipe import archs_of, check_archs

INFO = DatasetInfo(
    name="small", classes=("a", "b"), channels=1, height=16, width=16, mean=(0.5,), std=(0.5,), flip=False, licence=""
)


@pytest.mark.parametrize(
    ("archs", "hint"), [(("mlp", "vgg11"), None), (("mlp", "pad-8"), "it belongs to 'pad-8': name the other nets")]
)
def test_every_net_is_built_before_any_work(archs: tuple[str, ...], hint: str | None) -> None:
    """Whatever its turn; of a group that is named, because nobody typed its members."""
    config = EvaluateConfig(data="small", arch=archs)

    with pytest.raises(UsageError, match="'vgg11' needs images of 32 px or more, they have 16") as caught:
        check_archs(archs_of(config, INFO.height), config, INFO)
    assert (hint or "") in (caught.value.hint or "")


def test_nets_that_fit_pass() -> None:
    """Nothing is said."""
    config = EvaluateConfig(data="small", arch=("mlp", "lenet"))

    check_archs(archs_of(config, INFO.height), config, INFO)

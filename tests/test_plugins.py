"""Looking plugins up: names, summaries without imports, unknown names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ddlabel import _plugins
from ddlabel.errors import UsageError


def test_names_are_files_without_an_underscore() -> None:
    """With hyphens, except losses."""
    assert {"dm", "herding", "k-center", "random"} <= set(_plugins.names("distill"))
    assert {"kl_t2", "mse_ce"} <= set(_plugins.names("losses"))
    assert not any(name.startswith("_") for room in ("nets", "data") for name in _plugins.names(room))


@pytest.mark.parametrize(
    ("room", "name", "listed"),
    [("distill", "k_center", "k-center"), ("augment", "dsa_composite", "dsa-composite"), ("losses", "kl-t2", "kl_t2")],
)
def test_only_listed_names_are_known(room: str, name: str, listed: str) -> None:
    """The file name of a module is not another name of its plugin."""
    assert _plugins.is_known(room, listed)
    assert not _plugins.is_known(room, name)
    assert _plugins.summary(room, listed)
    for look in (_plugins.summary, lambda room, name: _plugins.load(room, name, "ANY")):
        with pytest.raises(UsageError, match=f"'{name}'; did you mean '{listed}'"):
            look(room, name)


def test_unknown_names_suggest_the_nearest() -> None:
    """With the list of all."""
    with pytest.raises(
        UsageError, match=r"unknown codec 'f17'; did you mean 'f16'\? \(known: bf16, .*f16, f32, .*vq\)"
    ):
        _plugins.load("codecs", "f17", "CODEC")


def test_summaries_import_nothing() -> None:
    """Read from the source."""
    code = "import sys; from ddlabel import _plugins; _plugins.summary('distill', 'dm'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False" == done.stdout.strip()

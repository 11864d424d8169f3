"""Fixtures of the bundle tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

from .forging import Forgery, as_bytes, make_distilled


@pytest.fixture
def rich() -> Bundle:
    """A distilled bundle with a section of every kind."""
    return make_distilled()


@pytest.fixture
def forged(rich: Bundle) -> Forgery:
    """The rich bundle, taken apart."""
    return Forgery.of(as_bytes(rich))


@pytest.fixture
def refuses(run_cli, tmp_path: Path) -> Callable[..., None]:
    """Checks that the command line refuses the bytes of a file as it promises.

    Exit 3 (or another code), one printable line that names the file and says what is expected; as JSON too, with the
    field. The file is left as it is.
    """

    def check(data: bytes, expected: str, *options: str, code: int = 3, exact_field: bool = True) -> None:
        path = tmp_path / "x.ddset"
        path.write_bytes(data)
        plain, machine = (run_cli("inspect", path, "--quiet", *options, *more) for more in ((), ("--json",)))
        document = json.loads(machine.out)

        assert (code, code) == (plain.code, machine.code), (plain, machine)
        assert re.match(rf"error: .*{re.escape(str(path))}: ", plain.err)
        assert plain.err.endswith("\n")
        assert plain.err[:-1].isprintable()
        assert re.search(expected, plain.err)
        assert "" == plain.out or code == 7  # what was found is shown, and then said
        assert data == path.read_bytes()
        if code == 7:  # a check that was asked for: the document of the command lists what it found
            assert re.search(expected, "; ".join(document["bundles"][0]["problems"]))
            return
        error = document["error"]
        assert code == error["code"]
        assert error["field"] or not exact_field
        assert f"{path}: " in error["message"]
        assert re.search(expected, f"{error['message']}; {error['hint']}")

    return check

"""Fixtures of the bundle tests."""

from __future__ import annotations

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

"""The cache of fitted whitenings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddlabel.data import _whitening
from ddlabel.data._whitening import PARTS, cached_zca
from ddlabel.errors import UsageError
from ddlabel.events import Event, ignore
from ddlabel.seeding import generator
from ddlabel.zca import Zca, fit_zca

PIXELS = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=generator(0, "pixels"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("DDLABEL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The epsilons of the fits that were done."""
    done: list[float] = []

    def counting(pixels: Tensor, epsilon: float) -> Zca:
        done.append(epsilon)
        return fit_zca(pixels, epsilon)

    monkeypatch.setattr(_whitening, "fit_zca", counting)
    return done


def same(one: Zca, other: Zca) -> bool:
    return one.epsilon == other.epsilon and all(torch.equal(getattr(one, part), getattr(other, part)) for part in PARTS)


def test_a_second_fit_is_read_and_has_the_same_bits(cache: Path, fits: list[float]) -> None:
    """As a fit without a cache."""
    first, second = cached_zca(PIXELS, ignore), cached_zca(PIXELS.clone(), ignore)

    assert same(fit_zca(PIXELS), first)
    assert same(first, second)
    assert [0.1] == fits
    assert 1 == len(list(cache.iterdir()))


def test_other_images_order_epsilon_or_threads_are_other_whitenings(cache: Path, fits: list[float]) -> None:
    """The last bits depend on the number of threads."""
    threads = torch.get_num_threads()
    cached_zca(PIXELS, ignore)
    cached_zca(PIXELS.flip(0), ignore)
    cached_zca(PIXELS[:19], ignore)
    cached_zca(PIXELS.reshape(20, 3, 2, 8), ignore)
    cached_zca(PIXELS, ignore, epsilon=0.2)
    torch.set_num_threads(threads + 1)
    try:
        cached_zca(PIXELS, ignore)
    finally:
        torch.set_num_threads(threads)

    assert [0.1, 0.1, 0.1, 0.1, 0.2, 0.1] == fits
    assert 6 == len(list(cache.iterdir()))


def flipped(data: bytes) -> bytes:
    return data[:-200] + bytes([data[-200] ^ 1]) + data[-199:]


@pytest.mark.parametrize("damage", [flipped, lambda data: data[:100], lambda data: b"", lambda data: b"not a file"])
def test_a_damaged_file_is_ignored_and_written_again(
    damage: Callable[[bytes], bytes], cache: Path, fits: list[float]
) -> None:
    """A flipped bit, a torn file, an empty one, a foreign one."""
    expected = cached_zca(PIXELS, ignore)
    (path,) = cache.iterdir()
    good = path.read_bytes()
    path.write_bytes(damage(good))

    assert same(expected, cached_zca(PIXELS, ignore))
    assert good == path.read_bytes()
    assert 2 == len(fits)


def test_tensors_of_other_shapes_are_not_believed(cache: Path, fits: list[float]) -> None:
    """Even where their digest is right."""
    expected = cached_zca(PIXELS, ignore)
    (path,) = cache.iterdir()
    wrong = {part: torch.zeros(2, 2) for part in PARTS}
    _whitening.write_tensors(path.stem, wrong, {}, "nothing is", ignore)

    assert same(expected, cached_zca(PIXELS, ignore))
    assert 2 == len(fits)


def test_without_a_home_it_is_fitted_every_time(monkeypatch: pytest.MonkeyPatch, fits: list[float]) -> None:
    """And the user is told."""
    for name in ("DDLABEL_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    events: list[Event] = []
    for _run in range(2):
        cached_zca(PIXELS, events.append)

    assert 2 == len(fits)
    assert ["note: no home folder, the fitted ZCA is not cached"] * 2 == [event.message for event in events]


def test_what_cannot_be_whitened_is_refused_as_before(cache: Path) -> None:
    """Nothing is written."""
    with pytest.raises(UsageError, match="ZCA of 1 images"):
        cached_zca(PIXELS[:1], ignore)
    assert not cache.exists()

"""Shares of an image as users and files write them."""

from __future__ import annotations

import re
from fractions import Fraction

from ..errors import UsageError

__all__ = ["parse_share"]

MAX_DENOMINATOR = 10**6


def parse_share(text: str, option: str, example: str) -> Fraction:
    """A fraction in (0, 1] from `P/Q` or a plain decimal.

    Raises:
        UsageError: anything else, exponents and more than six decimals too.
    """
    share = Fraction(0)
    if re.fullmatch(r"[0-9]{1,9}(/0*[1-9][0-9]{0,8})?|[0-9]?\.[0-9]{1,6}", text):
        share = Fraction(text)
    if not 0 < share <= 1 or share.denominator > MAX_DENOMINATOR:
        raise UsageError(
            f"option '{option}' is '{text[:40]}', expected a fraction P/Q in (0, 1] or a decimal of at most six places",
            field=option,
            hint=f"for example {example}",
        )
    return share

"""`python -m ddlabel`, and the console script."""

from __future__ import annotations

import sys

__all__ = ["entry"]


def entry() -> None:
    """Run the command line and exit; a Ctrl-C while modules are imported ends it as one later does."""
    try:
        from .cli.app import main

        code = main()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    entry()

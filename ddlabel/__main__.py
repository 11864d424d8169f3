"""`python -m ddlabel`."""

from __future__ import annotations

from .cli.app import entry

if __name__ == "__main__":
    entry()

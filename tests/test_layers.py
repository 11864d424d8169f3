"""Dependencies point downward: the table of floors against every import statement, by reading the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ddlabel"
FLOORS = (
    {"__init__", "errors", "events", "config", "options", "fsio", "filesystem", "inputs", "streams", "folders",
     "seeding", "_plugins", "header", "frame", "memory", "schema", "manifest", "manifest_rules", "digests", "storage",
     "scores", "recipes", "tables", "philox", "crops", "team", "interchange", "temporaries"},
    {"bundle", "reader", "writer", "tensors", "packing", "sections"},
    {"zca", "space", "schedules", "sharpness", "selection", "gradients", "refinement", "data", "nets", "augment",
     "losses", "codecs", "generators"},
    {"privileged"},
    {"labels", "training", "preprocess"},
    {"teachers", "distilled", "students", "epoch_dataset", "trajectories", "difficulty", "curriculum"},
    {"distill", "protocols", "importers", "exporters"},
    {"refine"},
    {"stages", "loaded", "loading"},
    {"cli"},
    {"__main__"},
)  # fmt: skip
"""Bottom to top. A module may import from its own floor's modules and from those below; rooms of one floor may not."""
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}


def place(name: str) -> int:
    return next(index for index, floor in enumerate(FLOORS) if name in floor)


def imports(path: Path) -> set[str]:
    """First-level modules of the package that a file imports, at any depth of the code."""
    level = len(path.relative_to(PACKAGE).parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        if node.level == level:
            found |= {(node.module or alias.name).split(".")[0] for alias in node.names}
        else:
            found.add(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    return found - {"__version__"}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_point_downward(path: Path) -> None:
    """No file imports from a higher floor, and no room from another room of its floor."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path) - {own}:
        assert place(name) <= place(own), f"{own} imports {name}, which is above it"
        assert not (name in ROOMS and own in ROOMS and place(name) == place(own)), f"{own} imports the room {name}"


def test_every_module_has_a_floor() -> None:
    """A new module is placed knowingly."""
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}

    assert modules <= set().union(*FLOORS)


def test_packages_are_empty_and_two_levels_deep() -> None:
    """Looking a plugin up imports nothing; nothing is buried."""
    assert all((PACKAGE / room / "__init__.py").read_text() == "" for room in ROOMS)
    assert all(len(path.relative_to(PACKAGE).parts) <= 2 for path in FILES)

"""Every numbered fault is tried by some test: the numbers, in our words, against the markers in the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from _pytest.skipping import evaluate_skip_marks

FAULTS = {
    # A. Header
    1: "a file of no bytes",
    2: "a file too short for the length of its header",
    3: "a header of length 0",
    4: "a header of length 2^63",
    5: "a header longer than the limit",
    6: "a header longer than the file",
    7: "a header that is not UTF-8",
    8: "a header that is broken JSON",
    9: "a header that is a list",
    10: "JSON nested 100,000 deep",
    11: "NaN, or a number beyond every float, in JSON",
    12: "a whole number of 5,000 digits",
    13: "half a character in a name",
    14: "white space or a byte order mark before the header",
    15: "a header padded with something else than spaces",
    16: "one tensor name twice, at the same place",
    17: "one tensor name twice, at two places",
    18: "a key twice in the metadata",
    19: "a tensor entry with a field nobody knows",
    20: "metadata that are null, hold a number, or do not say which format",
    21: "tensor names that are empty, hold control characters, are paths or endless",
    # B. Tensor table
    22: "a hole before or between tensors",
    23: "tensors that overlap",
    24: "a tensor that ends before it begins",
    25: "offsets and sides that are negative or no whole numbers",
    26: "a shape whose size overflows",
    27: "a huge side beside a zero",
    28: "a size that shape and dtype do not give",
    29: "a dtype nobody knows",
    30: "a dtype of the format that torch lacks",
    31: "bytes behind the last tensor",
    32: "a file cut off at every sixteenth",
    33: "a tensor that starts at no multiple of its element size",
    34: "truth values other than 0 and 1",
    35: "100,000 tensors",
    36: "tensors of no element and of no dimension",
    # C. Manifest
    37: "no manifest",
    38: "a manifest of another dtype, of two dimensions, or of no bytes",
    39: "a manifest that is no zstd frame",
    40: "a frame that is cut off",
    41: "a flipped bit, with a checksum and without",
    42: "32 KB that say they are 1 GiB",
    43: "a bomb that does not say its size",
    44: "13 bytes that say they are 7.2e18",
    45: "a window of 1 GiB",
    46: "a frame that needs a dictionary",
    47: "two frames",
    48: "a skippable frame before the manifest, or one that hides something behind it",
    49: "junk behind the frame",
    50: "a manifest at the limit and one byte above it",
    51: "a key twice in the manifest",
    52: "a wrong type in each field",
    53: "a tensor that is listed and absent, or present and not listed",
    54: "a manifest that describes a tensor otherwise than the header",
    55: "a digest that was edited",
    56: "data that was edited",
    57: "a newer minor version",
    58: "a newer major version",
    59: "a feature this reader does not know",
    60: "lists and texts beyond all limits",
    61: "a storage report that does not add up",
    62: "control characters in class names and arguments",
    # D. Content
    63: "images or labels that are not finite",
    64: "soft labels that are no distribution",
    65: "hard labels outside the classes",
    66: "labels of another number of images or views",
    67: "windows larger than the image, ratios outside (0, 1]",
    68: "codec parameters out of range",
    69: "codec parts too short, too long, out of range or twice",
    70: "feature labels of a layer that the student lacks",
    71: "teachers and labels of other data: digest, class order, size, channels",
    72: "a whitening matrix of the wrong size, or singular",
    73: "one class, 10,000 classes, no image per class, more than there are",
    74: "a learned step size that is not positive",
    # E. Data sets
    75: "a data folder that is missing",
    76: "a data folder without class folders",
    77: "a class without images",
    78: "pictures that are empty, cut off, or of another kind than their name",
    79: "pictures of 16 bit, with palette, CMYK, alpha, rotation, animation",
    80: "pictures of several sizes",
    81: "a picture of endless pixels",
    82: "links that loop or lead outside",
    83: "file names that are not UTF-8 or hold a newline",
    84: "a file that vanishes or changes while it is read",
    85: "a file that may not be read",
    86: "test images among the training images",
    87: "npz files with objects, bombs or other arrays",
    88: "tar files with absolute paths, links, devices, members twice",
    89: "a folder listed in another order",
    # F. Files and pipes
    90: "an output that exists",
    91: "an output folder that is missing, read-only, a file, or the root",
    92: "an output that is an input",
    93: "an output that is a pipe, a device or a socket",
    94: "an output that is a link",
    95: "mode and umask of an output",
    96: "no space, no quota, a file size limit",
    97: "a disk that fails to read, write, sync or close",
    98: "interrupted and short writes",
    99: "killed after every file operation",
    100: "power lost after every file operation",
    101: "two writers of one file",
    102: "a reader while the file is replaced",
    103: "a file cut off while it is open",
    104: "a file edited in place while it is open",
    105: "stdin closed, empty, a terminal, or named twice",
    106: "a reader of our output that goes away",
    107: "a pipe that gives one byte at a time",
    108: "a file system without memory mapping",
    109: "bundles above 2 and 4 GiB",
    # G. Process
    110: "signals at the start, in a step, while writing, and twice",
    111: "an interrupt that the parent ignores",
    112: "a resume with something else changed",
    113: "a state that is corrupt, cut off or foreign",
    114: "interrupted at every checkpoint and resumed",
    115: "NaN at some step",
    116: "no memory left",
    117: "clock, time zone, language, threads, umask, home, terminal",
    118: "assertions switched off",
}
SLOW_ONLY: dict[int, str] = {}
"""Faults that only slow tests try, and why."""
TESTS = Path(__file__).parent


def name_of(call: ast.expr) -> str | None:
    """The last part of what is called or named: `slow` of `pytest.mark.slow`, `fault` of `fault(3)`."""
    node = call.func if isinstance(call, ast.Call) else call
    return getattr(node, "attr", getattr(node, "id", None))


def marks(node: ast.AST) -> Iterator[int]:
    """Whole numbers in calls of `fault(...)`, by that name or as an attribute, wherever they are inside."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and name_of(inner) == "fault":
            for argument in inner.args:
                if isinstance(argument, ast.Constant) and type(argument.value) is int:
                    yield argument.value


def is_late(nodes: Iterable[ast.expr]) -> bool:
    """Whether a mark among them keeps a test out of the default run: `slow`, `gpu`, `real_images`, `skip`, `skipif`."""
    return any(name_of(node) in {"slow", "gpu", "real_images", "skip", "skipif", "xfail"} for node in nodes)


def of_decorators(decorators: Iterable[ast.expr], tables: Mapping[str, ast.expr]) -> Iterator[tuple[int, bool]]:
    """Faults of one test's decorators, and whether they are tried in the default run; tables may be named there."""
    decorators = list(decorators)
    late = is_late(decorators)
    for decorator in decorators:
        if name_of(decorator) != "parametrize":
            yield from ((number, not late) for number in marks(decorator))
            continue
        named = [tables[node.id] for node in ast.walk(decorator) if isinstance(node, ast.Name) and node.id in tables]
        for table in (decorator, *named):
            for call in ast.walk(table):
                if isinstance(call, ast.Call) and name_of(call) in {"param", "case"}:
                    inner = [node for node in ast.walk(call) if isinstance(node, ast.Attribute | ast.Name)]
                    yield from ((number, not late and not is_late(inner)) for number in marks(call))


def tried(source: str) -> set[tuple[int, bool]]:
    """Faults that the tests of a source try, and whether they do in the default run.

    Marks count on tests, on their classes, on their parameters and on their module; on helpers and fixtures they are
    of nothing that runs.
    """
    found: set[tuple[int, bool]] = set()
    tree = ast.parse(source)
    tables = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    whole = [tables["pytestmark"]] if "pytestmark" in tables else []
    whole = [one for mark in whole for one in (mark.elts if isinstance(mark, ast.List | ast.Tuple) else [mark])]

    def visit(body: Iterable[ast.stmt], outer: Sequence[ast.expr]) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                visit(node.body, [*outer, *node.decorator_list])
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                found.update(of_decorators([*outer, *node.decorator_list], tables))

    visit(tree.body, whole)
    return found


def problems(sources: Iterable[str], slow_only: Iterable[int] = ()) -> list[str]:
    """Faults that no test tries, or none of the default run, and markers of faults that do not exist."""
    found = {each for source in sources for each in tried(source)}
    every, early = {number for number, _early in found}, {number for number, early in found if early}
    return [
        *(f"no test tries fault {number}: {FAULTS[number]}" for number in sorted(FAULTS.keys() - every)),
        *(f"only slow tests try fault {number}" for number in sorted(every - early - {*slow_only})),
        *(
            f"fault {number} is tried by the default run, it is listed as slow"
            for number in sorted(early & {*slow_only})
        ),
        *(f"there is no fault {number}" for number in sorted(every - FAULTS.keys())),
    ]


def test_every_fault_has_a_test() -> None:
    """118 numbers; none is left out and none is invented, and the default run tries all but those that are listed."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("test_*.py"))]

    assert list(range(1, 119)) == list(FAULTS)
    assert not problems(sources, SLOW_ONLY), "\n".join(problems(sources, SLOW_ONLY))


def test_every_fault_is_tried_by_a_test_that_this_run_collected(request: pytest.FixtureRequest) -> None:
    """As pytest has it: collected, selected, and not skipped; it can be said of a run of all tests alone."""
    options = request.config.option
    folders = {Path(argument.split("::")[0]).resolve() for argument in request.config.args}
    if folders != {TESTS} or options.keyword or options.markexpr != "not slow" or options.deselect:
        pytest.skip("not a run of all tests")
    items = [item for item in request.session.items if evaluate_skip_marks(item) is None]
    found = {number for item in items for mark in item.iter_markers("fault") for number in mark.args}

    assert FAULTS.keys() - SLOW_ONLY.keys() == found


TEST = "def test_x(): ..."


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        (f"@pytest.mark.fault(3)\n{TEST}", {(3, True)}),
        ("@mark.fault(3, 4)\nclass TestIt:\n  def test_x(self): ...", {(3, True), (4, True)}),
        (f"pytestmark = [pytest.mark.fault(5)]\n{TEST}", {(5, True)}),
        (
            f"@mark.parametrize('x', [pytest.param(1, marks=pytest.mark.fault(16)), case(fault(17), 'x')])\n{TEST}",
            {(16, True), (17, True)},
        ),
        (
            f"CASES = [case(fault(1), 'x')]\nOTHER = [case(fault(2), 'x')]\n@mark.parametrize('x', CASES)\n{TEST}",
            {(1, True)},
        ),
        (f"@pytest.mark.slow\n@fault(3)\n{TEST}", {(3, False)}),
        (f"pytestmark = pytest.mark.skipif(True, reason='x')\n@fault(3)\n{TEST}", {(3, False)}),
        (
            f"@mark.parametrize('x', [param(1, marks=[fault(6), mark.slow]), param(1, marks=fault(7))])\n{TEST}",
            {(6, False), (7, True)},
        ),
        ("@fault(3)\ndef helper(): ...\n@fault(4)\nclass Helper:\n  def test_x(self): ...", set()),
        (f"# pytest.mark.fault(3)\n'fault(4)'\nfault = 5\nother(6)\n@fault(number, True, '7', x=8)\n{TEST}", set()),
    ],
    ids=[
        "decorator", "class", "module", "parameters", "table", "slow", "skipped", "slow parameter", "helpers", "text",
    ],
)  # fmt: skip
def test_markers_are_found_in_sources(source: str, numbers: set[tuple[int, bool]]) -> None:
    """As code, never as text; and only where a test has them."""
    assert numbers == tried(source)


def test_the_count_can_fail() -> None:
    """A number that is left out is named with its fault, an invented one as such, a slow one too."""
    whole = [f"@fault({number})\n{TEST}" for number in FAULTS]
    slow = f"@slow\n{whole[33]}"

    assert not problems(whole)
    assert ["no test tries fault 34: truth values other than 0 and 1"] == problems(whole[:33] + whole[34:])
    assert ["only slow tests try fault 34"] == problems([*whole[:33], slow, *whole[34:]])
    assert not problems([*whole[:33], slow, *whole[34:]], [34])
    assert ["fault 34 is tried by the default run, it is listed as slow"] == problems(whole, [34])
    assert ["there is no fault 0", "there is no fault 119"] == problems(
        [*whole, f"@fault(0)\n{TEST}", f"@fault(119)\n{TEST}"]
    )

"""Every numbered fault is tried by some test: the numbers, in our words, against the markers in the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

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
TESTS = Path(__file__).parent


def marked(source: str) -> Iterator[int]:
    """Whole numbers in calls of `fault(...)`, by that name or as an attribute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", None)) == "fault":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and type(argument.value) is int:
                    yield argument.value


def problems(sources: Iterable[str]) -> list[str]:
    """Faults that no test tries, and markers of faults that do not exist."""
    tried = {number for source in sources for number in marked(source)}
    missing = [f"no test tries fault {number}: {FAULTS[number]}" for number in sorted(FAULTS.keys() - tried)]
    return missing + [f"there is no fault {number}" for number in sorted(tried - FAULTS.keys())]


def test_every_fault_has_a_test() -> None:
    """118 numbers; none is left out and none is invented."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("*.py"))]

    assert list(range(1, 119)) == list(FAULTS)
    assert not problems(sources), "\n".join(problems(sources))


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("@pytest.mark.fault(3)\ndef test(): ...", [3]),
        ("@mark.fault(3, 4)\nclass Test: ...", [3, 4]),
        ("cases = [pytest.param(1, marks=pytest.mark.fault(16)), case(fault(17), 'x')]", [16, 17]),
        ("# pytest.mark.fault(3)\n'fault(4)'\nfault = 5\nother(6)\nfault(number, True, '7', x=8)", []),
    ],
    ids=["decorator", "several", "parameters", "comments, texts, variables"],
)
def test_markers_are_found_in_sources(source: str, numbers: list[int]) -> None:
    """As code, never as text."""
    assert numbers == sorted(marked(source))


def test_the_count_can_fail() -> None:
    """A number that is left out is named with its fault, an invented one as such."""
    whole = [f"fault({number})" for number in FAULTS]

    assert not problems(whole)
    assert ["no test tries fault 34: truth values other than 0 and 1"] == problems(whole[:33] + whole[34:])
    assert ["there is no fault 0", "there is no fault 119"] == problems([*whole, "fault(0)", "fault(119)"])

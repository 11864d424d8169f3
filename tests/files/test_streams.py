"""Bundles through what is no plain file: pipes, devices, sockets, open descriptors, terminals, disks that fail."""

from __future__ import annotations

import errno
import hashlib
import io
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddlabel import inputs
from ddlabel.bundle import Bundle, NewSection, RawTensor, StageRecord
from ddlabel.cli._resume import partial_name
from ddlabel.errors import BundleError, ResourceError, UsageError
from ddlabel.fsio import check_output, is_stream, open_input
from ddlabel.reader import read_manifest
from ddlabel.tensors import FileTensor, OpenFile
from ddlabel.writer import lay_out

from ..conftest import write_tiny_npz
from .test_fault_counter import bundle

COMMAND = [sys.executable, "-m", "ddlabel"]


def as_bytes(made: Bundle) -> bytes:
    stream = io.BytesIO()
    made.write_to(stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def small() -> Bundle:
    """A few kB."""
    return bundle(1)


@pytest.fixture(scope="module")
def wide() -> Bundle:
    """A header of more than 64 KiB, as much as a pipe holds."""
    tensors = {f"state.a.t{number:04}": RawTensor("U8", (3,), b"abc") for number in range(900)}
    record = StageRecord("distill", {}, 0, [], {}, 1.0, 1.7e9, {"device": "cpu"})
    return Bundle.create("partial", None, record, [NewSection("state.a", "state", tensors)])


@pytest.fixture
def pipe() -> Iterator[tuple[int, list[bytes], threading.Thread]]:
    """A pipe that somebody reads to its end."""
    reader, writer = os.pipe()
    received: list[bytes] = []

    def drain() -> None:
        with open(reader, "rb") as stream:
            received.append(stream.read())

    thread = threading.Thread(target=drain)
    thread.start()
    yield writer, received, thread
    thread.join()


@pytest.mark.fault(93)
def test_an_open_descriptor_is_streamed_to_by_any_of_its_names(small: Bundle, tmp_path: Path, pipe) -> None:
    """/dev/fd/N, /proc/self/fd/N and a link to it, of a pipe; no such name keeps a state beside it."""
    writer, received, thread = pipe
    link = tmp_path / "link"
    link.symlink_to(f"/dev/fd/{writer}")
    names = [f"/dev/fd/{writer}", f"/proc/self/fd/{writer}", str(link)]
    for name in names:
        check_output(name, force=False)
        small.save(name)
    kept = [partial_name(name) for name in (*names, "/dev/stdout", "-", "/dev/null")]
    os.close(writer)
    thread.join()

    assert [as_bytes(small) * 3] == received
    assert [None] * 6 == kept
    assert link.is_symlink()


@pytest.mark.fault(93)
@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_stdout_by_its_name_is_not_replaced_when_it_is_a_file(small: Bundle, tmp_path: Path, mode: str) -> None:
    """`-o /dev/stdout > FILE` writes to the file that the shell opened, after what is in it."""
    path = tmp_path / "x"
    with open(path, mode) as file:
        file.write(b"before ")
        file.flush()
        inode = os.fstat(file.fileno()).st_ino
        small.save(f"/dev/fd/{file.fileno()}")

    assert (inode, b"before " + as_bytes(small)) == (path.stat().st_ino, path.read_bytes())


@pytest.mark.fault(93)
def test_a_socket_is_connected_to(small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never replaced; one that nobody listens at is a resource error."""
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    received: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        server.listen()

        def serve() -> None:
            connection, _address = server.accept()
            with connection, connection.makefile("rb") as stream:
                received.append(stream.read())

        thread = threading.Thread(target=serve)
        thread.start()
        check_output("s", force=False)
        small.save("s", force=True)
        thread.join()
    with pytest.raises(ResourceError, match=r"s: cannot be written \(Connection refused\)"):
        small.save("s", force=True)

    assert [as_bytes(small)] == received
    assert Path("s").is_socket()


@pytest.mark.fault(93, 96)
def test_a_full_device_is_a_resource_error_and_stays(small: Bundle) -> None:
    """/dev/full by a bundle."""
    before = os.stat("/dev/full").st_rdev
    with pytest.raises(ResourceError, match="No space left on device"):
        small.save("/dev/full", force=True)

    assert before == os.stat("/dev/full").st_rdev


@pytest.mark.fault(93)
def test_a_pipe_that_is_full_and_may_not_block_is_waited_for(small: Bundle, wide: Bundle) -> None:
    """As other programs leave a shared stdout; nothing is lost."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received: list[bytes] = []

    def drain() -> None:
        with open(reader, "rb") as stream:
            received.append(stream.read())

    thread = threading.Thread(target=drain)
    thread.start()
    wide.save(f"/dev/fd/{writer}")
    os.close(writer)
    thread.join()

    assert [as_bytes(wide)] == received


@pytest.mark.fault(93)
def test_what_is_a_stream(tmp_path: Path) -> None:
    """Files and folders are none, whether they exist or not."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    names = {name: is_stream(str(tmp_path / name)) for name in ("file", "fifo", ".", "none", "1")}

    assert {"file": False, "fifo": True, ".": False, "none": False, "1": False} == names
    assert all(map(is_stream, ("-", "/dev/stdout", "/dev/null", "/dev/fd/1")))


@pytest.mark.fault(105)
def test_terminals_are_no_bundles(run_cli, small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As stdin and as an output: exit 2 with what to do instead, before anything is read or written."""
    controller, terminal = os.openpty()
    with open(terminal) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        outcome = run_cli("inspect", "-")
        for call in (lambda: open_input("-"), lambda: small.save(f"/dev/fd/{terminal}")):
            with pytest.raises(UsageError, match="is a terminal"):
                call()
        with pytest.raises(UsageError, match="is a terminal, expected a pipe or a file"):
            check_output(f"/dev/fd/{terminal}", force=True)
    os.close(controller)

    assert 2 == outcome.code
    assert "stdin is a terminal, expected a bundle; give a FILE, or pipe one in" in outcome.err


@pytest.mark.fault(105)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "empty"])
def test_stdin_without_a_bundle(run_cli, monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """Exit 3, one line."""
    stream = io.TextIOWrapper(io.BytesIO())
    if closed:
        stream.close()
    monkeypatch.setattr(sys, "stdin", stream)
    outcome = run_cli("inspect", "-")

    assert 3 == outcome.code
    assert outcome.err.startswith("error: <stdin>: " + ("closed, expected a bundle" if closed else ""))
    assert 1 == outcome.err.count("\n")


@pytest.mark.fault(107)
@pytest.mark.parametrize("piece", [1, 65_535, 65_537])
def test_a_header_that_crosses_what_a_pipe_holds(wide: Bundle, piece: int) -> None:
    """Whatever the pieces that it comes in: the manifest alone, and the whole bundle."""
    data = as_bytes(wide)
    header = int.from_bytes(data[:8], "little")
    assert header > 65_536

    class Pieces(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = memoryview(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            count = min(len(buffer), piece, len(self.rest))
            buffer[:count], self.rest = self.rest[:count], self.rest[count:]
            return count

    _header, manifest = read_manifest(Pieces())  # type: ignore[arg-type]

    assert wide.content == manifest.content
    if piece > 1:
        opened = Bundle.open(Pieces(), verify=True)  # type: ignore[arg-type]
        assert bytearray(b"abc") == opened.read("state.a.t0899")[2]


@pytest.mark.fault(108)
def test_nothing_is_mapped(small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO, and a file system that refuses to map (ENODEV), are read."""

    def refused(*_arguments: object, **_keywords: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refused)
    small.save(tmp_path / "x.ddset")
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(as_bytes(small)))
    writer.start()
    piped = Bundle.open(tmp_path / "fifo", verify=True)
    writer.join()

    assert small.content == Bundle.open(tmp_path / "x.ddset", verify=True).content == piped.content
    assert 4000 == len(piped.read("state.a.x")[2])
    assert [] == [line for line in Path("/proc/self/maps").read_text().splitlines() if "x.ddset" in line]


@pytest.mark.fault(97)
def test_a_disk_that_fails_while_a_bundle_is_opened(
    small: Bundle, tmp_path: Path, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO at any read of header and manifest: exit 6 naming the file, not damage."""
    path = tmp_path / "x.ddset"
    small.save(path)
    with pytest.raises(ResourceError, match=r"mem: cannot be read \(Input/output error\)"):
        Bundle.open("/proc/self/mem")
    left = 0

    class Raw(io.FileIO):
        def readinto(self, buffer, /) -> int | None:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(memoryview(buffer)[:200])

    class Failing(inputs._Worded, Raw):
        """Words what the raw file says."""

    monkeypatch.setattr(inputs, "_Worded", Failing)
    for at in range(1, 10):
        left = at
        outcome = run_cli("inspect", path)
        if left > 0:
            assert 0 == outcome.code
            assert at > 3
            return
        assert (6, 1) == (outcome.code, outcome.err.count("x.ddset: cannot be read (Input/output error)"))
    pytest.fail("it was never opened")


@pytest.mark.fault(97)
def test_a_pipe_that_fails_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stdin: the stream is named, not the temporary file."""

    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _buffer) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    for open_it in (Bundle.open, lambda name: open_input(name).read(1)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Broken())))
        with pytest.raises(ResourceError, match=r"<stdin>: cannot be read \(Input/output error\)"):
            open_it("-")


@pytest.mark.fault(97)
@pytest.mark.parametrize("options", [(), ("--verify",)], ids=["manifest alone", "whole"])
def test_a_redirected_stdin_that_fails_is_not_said_to_be_unwritable(
    run_cli, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """`< FILE` on a disk that fails (EIO of the kernel's own making): exit 6, "cannot be read"."""
    with open("/proc/self/mem") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        outcome = run_cli("inspect", "-", *options)

    assert (6, 1) == (outcome.code, outcome.err.count("\n"))
    assert outcome.err.startswith("error: <stdin>: cannot be read (Input/output error)")


@pytest.mark.fault(105)
def test_a_redirected_stdin_is_read_from_where_it_stands(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another program took of the file before is not ours; one at its start is not copied."""
    path = tmp_path / "x"
    for before in (b"", b"a line of another\n"):
        path.write_bytes(before + as_bytes(small))
        with open(path) as stdin:
            stdin.buffer.read(len(before))
            monkeypatch.setattr(sys, "stdin", stdin)
            opened = Bundle.open("-", verify=True)

        assert small.content == opened.content


class Endless(io.RawIOBase):
    """A stream that begins with some bytes and then repeats others for ever; reading on and on is a failure."""

    def __init__(self, start: bytes, rest: bytes, most: int) -> None:
        self._start, self._rest, self.left = memoryview(start), rest, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._start[: len(buffer)] or (self._rest * len(buffer))[: len(buffer)]
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        self.left -= len(data)
        assert self.left > 0, "read on and on"
        return len(data)


@pytest.mark.fault(31, 107)
@pytest.mark.parametrize("how", ["file", "stdin", "stream", "inspect"])
@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"\0", "header length is 0, expected at least 2"),
        (b"y\n", "this is no .ddset file"),
        (None, "follow the last tensor, expected none"),
        (b"damaged", "no JSON"),
    ],
    ids=["zeros", "yes", "a bundle and more", "a header and more"],
)
def test_input_without_an_end_is_refused_early(
    run_cli, small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, rest: bytes | None, expected: str
) -> None:
    """Exit 3, not a temporary disk that fills: no more is read than the header promises."""
    start = {None: as_bytes(small), b"damaged": (2**16).to_bytes(8, "little") + b"{"}.get(rest, b"")
    stream = Endless(start, rest or b"y\n", 2**23)
    if how == "stream":
        with pytest.raises(BundleError, match=expected):
            Bundle.open(stream)  # type: ignore[arg-type]
        return
    path = "-"
    if how == "file":
        path = str(tmp_path / "endless")
        os.mkfifo(path)
        monkeypatch.setattr(inputs, "_Worded", lambda _name, _shown: stream)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(stream)))
    outcome = run_cli("inspect", path, *(["--verify"] if how != "inspect" else []))

    assert (3, 1) == (outcome.code, outcome.err.count("\n")), outcome
    assert expected in outcome.err


@pytest.mark.fault(31)
def test_devices_without_an_end_are_refused(run_cli) -> None:
    """Real ones."""
    outcomes = [run_cli("inspect", name) for name in ("/dev/zero", "/dev/null")]

    assert [3, 3] == [outcome.code for outcome in outcomes]
    assert "/dev/zero: header length is 0" in outcomes[0].err
    assert "/dev/null: 0 bytes long" in outcomes[1].err


@pytest.mark.fault(52)
def test_nothing_is_spooled_before_the_manifest_is_sound(small: Bundle) -> None:
    """A header may promise terabytes: what follows a manifest that is refused is left unread."""
    data = bytearray(as_bytes(small))
    data[int.from_bytes(data[:8], "little") + 8 + 20] ^= 1
    stream = Endless(bytes(data), b"y", len(data))
    with pytest.raises(BundleError, match="manifest"):
        Bundle.open(io.BufferedReader(stream, 16))

    assert stream.left >= 4000  # the state's tensor


@pytest.mark.slow
@pytest.mark.fault(106)
@pytest.mark.parametrize("through", ["", "| DDLABEL inspect - "], ids=["stage", "table"])
def test_a_reader_that_takes_100_bytes(tmp_path: Path, through: str) -> None:
    """`| head -c 100`: 141 without a word, and nobody upstream hangs."""
    npz = write_tiny_npz(tmp_path / "large.npz", side=64)
    stage = f"DDLABEL distill --data npz:{npz} --method random --ipc 10 -q -o - "
    line = f"{stage}{through}| head -c 100 | wc -c; echo ${{PIPESTATUS[*]}}"
    done = subprocess.run(
        ["bash", "-c", line.replace("DDLABEL", " ".join(COMMAND))], capture_output=True, text=True, timeout=120
    )
    taken, *codes = done.stdout.split()

    assert ("100", "") == (taken, done.stderr)
    assert "141" == codes[0] if not through else {"0", "141"} >= set(codes[:2])
    assert ["0", "0"] == codes[-2:]


def sparse_bundle(folder: Path, size: int, sha256: str) -> Path:
    """A bundle of so many zeros that take no room, and of a second tensor behind them."""
    with open(folder / "zeros", "w+b") as file:
        file.truncate(size)
        large = FileTensor(OpenFile(file), 0, "U8", (size // 4096, 4096), size, sha256, "zeros")
    record = StageRecord("distill", {}, 0, [], {}, 1.0, 1.7e9, {"device": "cpu"})
    sections = [
        NewSection("state.a", "state", {"state.a.x": large}),
        NewSection("state.b", "state", {"state.b.y": RawTensor("U8", (3,), b"end")}),
    ]
    made = Bundle.create("partial", None, record, sections)
    layout = lay_out(made.manifest.document, made._sources, made.name)
    path = folder / "x.ddset"
    with open(path, "wb") as sparse:  # as `save` writes it, without the zeros
        sparse.write(layout.head)
        sparse.seek(size - 1, 1)
        sparse.write(b"\1")
        sparse.seek(sum(entry.nbytes for entry in layout.entries[2:-1]), 1)
        sparse.write(b"end")
    assert path.stat().st_size > size
    assert path.stat().st_blocks * 512 < 2**20
    return path


@pytest.mark.fault(109)
@pytest.mark.parametrize("size", [2**31 + 4096, 2**32 + 4096], ids=["2 GiB", "4 GiB"])
def test_offsets_beyond_2_and_4_GiB(tmp_path: Path, size: int) -> None:
    """64 bits: the last byte, and the tensor behind it; a file that was cut off by one byte is refused."""
    path = sparse_bundle(tmp_path, size, "0" * 64)
    opened = Bundle.open(path)

    assert bytearray(b"end") == opened.read("state.b.y")[2]
    assert 1 == opened.slice("state.a.x", size // 4096 - 1, size // 4096)[0, -1]
    assert 0 == opened.slice("state.a.x", size // 4096 - 2, size // 4096 - 1).sum()
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BundleError, match="it was cut off"):
        Bundle.open(path)


@pytest.mark.slow
@pytest.mark.fault(109)
@pytest.mark.parametrize(("size", "damaged"), [(2**31 + 4096, True), (2**32 + 4096, False)], ids=["2 GiB", "4 GiB"])
def test_digests_beyond_2_and_4_GiB(tmp_path: Path, size: int, damaged: bool) -> None:
    """Every byte counts: a sparse file verifies; a last byte that is another one is found."""
    digest = hashlib.sha256()
    for start in range(0, size - 1, 2**20):
        digest.update(bytes(min(2**20, size - 1 - start)))
    digest.update(b"\0" if damaged else b"\1")
    opened = Bundle.open(sparse_bundle(tmp_path, size, digest.hexdigest()))

    assert (["'state.a.x': digest mismatch"] if damaged else []) == [
        problem.split(": ", 1)[1].split(",")[0] for problem in opened.verify()
    ]

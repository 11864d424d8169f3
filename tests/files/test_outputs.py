"""Atomic writes on real files: files in the way, links, permissions, limits, locks."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddlabel import filesystem, fsio, temporaries
from ddlabel.errors import DdlabelError, ResourceError, UsageError
from ddlabel.folders import OutputFolder, atomic_folder
from ddlabel.fsio import FileSystem, atomic_output, check_output
from ddlabel.temporaries import temporary_name

from .processes import forking
from .test_fault_counter import dead_process

OLD, NEW = b"old" * 1000, b"new" * 2000


def test_one_holder_at_a_time_and_nothing_left(tmp_path: Path) -> None:
    """The second is refused; a file that a killed holder left is no lock."""
    name = tmp_path / "lock"
    name.touch()
    with fsio.exclusive(str(name)):
        with pytest.raises(ResourceError, match="held by another run"), fsio.exclusive(str(name)):
            pass
        kept = name.exists()
    after = name.exists()
    with fsio.exclusive(str(name)):
        pass

    assert (True, False, False) == (kept, after, name.exists())


def test_a_lock_file_that_vanishes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder before removes it between our opening and locking it."""
    name = tmp_path / "lock"

    class Late(FileSystem):
        opened = 0

        def open_lock(self, path: str) -> int:
            descriptor = super().open_lock(path)
            self.opened += 1
            if self.opened == 1:
                os.unlink(path)
            return descriptor

    late = Late()
    monkeypatch.setattr(fsio, "current", late)
    with fsio.exclusive(str(name)):
        held = name.exists()

    assert (2, True) == (late.opened, held)


def test_file_systems_without_locks_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run there is no worse off than without locks."""

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filesystem.fcntl, "flock", unsupported)
    with fsio.exclusive(str(tmp_path / "lock")), fsio.exclusive(str(tmp_path / "lock")):
        pass

    assert [] == list(tmp_path.iterdir())


def write(path: Path, data: bytes = NEW, *, force: bool = False) -> None:
    with atomic_output(path, force=force) as file:
        for start in range(0, len(data), 1000):
            file.write(data[start : start + 1000])


@pytest.mark.fault(90)
def test_fault_90_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    """Found early by the check, and again at the end against a race."""
    path = tmp_path / "x.ddset"
    with pytest.raises(UsageError, match="exists"), atomic_output(path) as file:
        path.write_bytes(OLD)
        file.write(NEW)

    assert OLD == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="use --force"):
        check_output(str(path), force=False)


@pytest.mark.fault(101)
def test_fault_101_two_writers_leave_one_complete_file(tmp_path: Path) -> None:
    """Without force exactly one of them succeeds."""
    path = tmp_path / "x.ddset"
    outcomes: list[bytes | None] = []

    def attempt(data: bytes) -> None:
        try:
            write(path, data)
            outcomes.append(data)
        except UsageError:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(bytes([number]) * 5000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1 == sum(outcome is not None for outcome in outcomes)
    assert path.read_bytes() in outcomes


@pytest.mark.fault(90)
def test_file_systems_without_hard_links_claim_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback neither loses an existing file nor leaves its claim behind."""

    class NoLinks(FileSystem):
        def link(self, source: str, target: str) -> None:
            raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(fsio, "current", NoLinks())
    write(tmp_path / "x.ddset")

    assert NEW == (tmp_path / "x.ddset").read_bytes()
    with pytest.raises(UsageError), atomic_output(tmp_path / "y.ddset") as file:
        (tmp_path / "y.ddset").write_bytes(OLD)
        file.write(NEW)
    assert OLD == (tmp_path / "y.ddset").read_bytes()


@pytest.mark.fault(94)
def test_a_symbolic_link_that_leads_in_circles_is_refused(tmp_path: Path) -> None:
    """Not replaced by a file, not even with force."""
    link = tmp_path / "x.ddset"
    link.symlink_to("x.ddset")
    for refuse in (lambda: check_output(str(link), force=True), lambda: write(link, force=True)):
        with pytest.raises(UsageError, match="leads in circles"):
            refuse()

    assert link.is_symlink()


@pytest.mark.fault(91, 95)
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """Exit 6 from the check and from the write, of somebody who is not root; what is there stays."""
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside)
        (folder / "x.ddset").write_bytes(OLD)
        folder.chmod(0o555)
        script = """
def work(call):
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    call()
codes = wait(
    fork(work, lambda: fsio.check_output(PATH, force=True)),
    fork(work, lambda: bundle(1).save(PATH, force=True)),
    fork(work, lambda: bundle(1).save(PATH + "2")),
)
print(json.dumps(codes))
"""
        codes, errors = forking(script, folder)
        folder.chmod(0o755)

        assert [6, 6, 6] == codes, errors
        assert 1 == errors.count("is not writable")
        assert 2 == errors.count("cannot be written (Permission denied); check permissions")
        assert {"x.ddset": OLD} == {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.fault(95)
def test_names_of_many_bytes_have_temporaries_too(tmp_path: Path) -> None:
    """240 bytes in 80 letters."""
    path = tmp_path / ("名" * 78 + ".ddset")
    write(path)

    assert [path] == list(tmp_path.iterdir())


FULL = """
import contextlib
old, new = bundle(1, 9000), bundle(2, 20000)

def save():
    prepare()
    new.save(PATH, force=True)

found = []
for taken in range(17):
    for name in os.listdir(FOLDER):
        os.unlink(os.path.join(FOLDER, name))
    old.save(PATH)
    prepare = take(taken)
    (code,) = wait(fork(save))
    found.append((code, number_of(PATH)))
    assert set(os.listdir(FOLDER)) <= {"filler", "x.ddset"}, os.listdir(FOLDER)
print(json.dumps(found))
"""
FILLER = """
def take(pages):
    with contextlib.suppress(OSError), open(os.path.join(FOLDER, "filler"), "wb", buffering=0) as filler:
        filler.write(bytes(4096 * pages))
    return lambda: None
"""
LIMIT = """
import resource

def take(pages):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 * (16 - pages),) * 2)
    return limit
"""


@pytest.mark.fault(96)
@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_disk_that_is_full_at_any_moment(tmp_path: Path, kind: str) -> None:
    """A real one of 16 pages, some of which are taken: exit 6, the old bundle, nothing else.

    Where nobody may mount a disk, the limit of a file's size alone says so.
    """
    mount = ["sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"', str(tmp_path)]
    ways = [] if kind == "limit" else [["unshare", "-m"], ["unshare", "-rm"]]
    private = next((how for how in ways if not run_quietly([*how, *mount, "true"])), None)
    if kind == "disk" and private is None:
        pytest.skip("no file system can be mounted here; the limit is tried instead")
    code = (FILLER if private else LIMIT) + FULL
    found, errors = forking("import contextlib\n" + code, tmp_path, wrapper=[*private, *mount] if private else [])

    assert {(0, 2), (6, 1)} == {tuple(each) for each in found}
    assert (0, 2) == tuple(found[0])
    assert (6, 1) == tuple(found[-1])
    advice = "free some space or write elsewhere" if private else "raise the file size limit (ulimit -f)"
    assert errors.count(advice) == sum(code == 6 for code, _number in found)


def run_quietly(command: list[str]) -> int:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode
    except FileNotFoundError:
        return 127


@pytest.mark.fault(93)
@pytest.mark.parametrize("target", ["/dev/null", "fifo"])
def test_fault_93_special_files_are_written_to_and_never_replaced(tmp_path: Path, target: str) -> None:
    """A FIFO stays a FIFO."""
    path = Path(target) if target.startswith("/") else tmp_path / target
    received: list[bytes] = []
    if target == "fifo":
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
        reader.start()
    before = path.stat().st_mode
    write(path, force=True)
    if target == "fifo":
        reader.join()

    assert before == path.stat().st_mode
    assert received in ([], [NEW])


@pytest.mark.fault(93)
def test_fault_93_a_full_device_is_a_resource_error() -> None:
    """ENOSPC with advice."""
    with pytest.raises(ResourceError, match="free some space"):
        write(Path("/dev/full"), force=True)


@pytest.mark.fault(94)
def test_fault_94_a_symbolic_link_is_kept(tmp_path: Path) -> None:
    """The file it points to is written, also when it does not exist yet."""
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link.ddset"
    link.symlink_to(tmp_path / "folder" / "real.ddset")
    write(link)

    assert link.is_symlink()
    assert NEW == (tmp_path / "folder" / "real.ddset").read_bytes()


@pytest.mark.fault(94)
def test_fault_94_a_hard_link_keeps_its_own_content(tmp_path: Path) -> None:
    """Replacing one name leaves the other as it was."""
    (tmp_path / "a").write_bytes(OLD)
    os.link(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "a", force=True)

    assert (NEW, OLD) == ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes())


@pytest.mark.fault(95)
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_fault_95_new_files_honour_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    """Never 0600 by accident."""
    before = os.umask(umask)
    try:
        write(tmp_path / "x.ddset")
    finally:
        os.umask(before)

    assert mode == (tmp_path / "x.ddset").stat().st_mode & 0o777


@pytest.mark.fault(95)
def test_fault_95_replaced_files_keep_their_mode(tmp_path: Path) -> None:
    """What the owner chose."""
    (tmp_path / "x.ddset").write_bytes(OLD)
    (tmp_path / "x.ddset").chmod(0o640)
    write(tmp_path / "x.ddset", force=True)

    assert 0o640 == (tmp_path / "x.ddset").stat().st_mode & 0o777


@pytest.mark.fault(96)
def test_fault_96_a_file_size_limit_is_a_resource_error(tmp_path: Path) -> None:
    """`ulimit -f`: EFBIG, no temporary file left."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from ddlabel.fsio import atomic_output\n"
        "from ddlabel.errors import ResourceError\n"
        "try:\n    with atomic_output(sys.argv[1]) as f: f.write(bytes(5000))\n"
        "except ResourceError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.ddset")], capture_output=True, text=True, check=True
    )

    assert "ulimit -f" in done.stdout
    assert [] == list(tmp_path.iterdir())


def test_fault_110_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """Any exception, also one that is no Exception."""
    path = tmp_path / "x.ddset"
    with pytest.raises(KeyboardInterrupt), atomic_output(path) as file:
        file.write(NEW)
        raise KeyboardInterrupt

    assert [] == list(tmp_path.iterdir())


def own_temporary(folder: Path, pid: int, name: str = "x.ddset") -> Path:
    """As a process of that number would name one here."""
    return folder / temporary_name(name).replace(f".{os.getpid()}-", f".{pid}-")


def test_temporaries_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """The next write of the same name cleans up, and leaves those of living processes and of other names."""
    dead = dead_process()
    stale = own_temporary(tmp_path, dead)
    kept = [own_temporary(tmp_path, os.getppid()), own_temporary(tmp_path, dead, "y.ddset")]
    kept += [tmp_path / name for name in (".x.ddset.tmp", f".x.ddset.{dead}", f"x.ddset.{dead}-a.tmp")]
    for temporary in (stale, *kept):
        temporary.write_bytes(OLD)
    write(tmp_path / "x.ddset")

    assert {*kept, tmp_path / "x.ddset"} == set(tmp_path.iterdir())


@pytest.mark.fault(101)
@pytest.mark.parametrize("elsewhere", ["another machine", "another container", "before a restart"])
def test_writers_of_another_machine_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    """Their numbers say nothing here: whoever shares the folder keeps its temporary, and publishes it."""
    path, dead = tmp_path / "x.ddset", dead_process()
    with monkeypatch.context() as there:
        there.setattr(temporaries, "_host", lambda: hashlib.sha256(elsewhere.encode()).hexdigest()[:12])
        there.setattr(os, "getpid", lambda: dead)
        writer = atomic_output(path, force=True)
        file = writer.__enter__()
        file.write(NEW)
    write(path, OLD)
    write(path, OLD, force=True)
    writer.__exit__(None, None, None)

    assert {path: NEW} == {file: file.read_bytes() for file in tmp_path.iterdir()}


@pytest.mark.parametrize(("days", "there"), [(6, True), (8, False)])
def test_temporaries_of_other_machines_are_removed_a_week_later(tmp_path: Path, days: int, there: bool) -> None:
    """By the times of the folder and the file, which are of one clock; this machine's own does not count."""
    path = tmp_path / f".x.ddset.{dead_process()}-0123456789ab-0123456789ab.tmp"
    path.touch()
    os.utime(path, (1e9, 1e9))
    os.utime(tmp_path, (1e9 + days * 86_400,) * 2)
    write(tmp_path / "x.ddset")

    assert there == path.exists()


def test_hosts_are_told_apart_by_name_start_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are the same in every process and at every moment."""
    here = temporaries._host()
    assert here == temporaries._host()
    assert here in temporary_name("x")
    found = {here}
    for change in (
        (temporaries, "open", lambda *_arguments: io.BytesIO(b"another start")),
        (os, "readlink", lambda path: b"pid:[1]"),
        (os, "uname", lambda: SimpleNamespace(nodename="another")),
    ):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(*change, raising=False)
            found.add(temporaries._host())

    assert 4 == len(found)


@pytest.mark.fault(97)
@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_may_not_outlast_a_power_failure_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """The disk fails after the rename: exit 6, but nobody is told that it cannot be written, for it is."""

    def broken(_path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fsio.current, "sync_directory", broken, raising=False)
    path, folder = tmp_path / "x.ddset", tmp_path / "folder"
    if force:
        path.write_bytes(OLD)
    with pytest.raises(ResourceError, match=r"x\.ddset: written whole, but not certain .* \(Input/output error\)"):
        write(path, force=force)
    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "sync", lambda _folder: None)
        with (
            pytest.raises(ResourceError, match="folder: written whole, but not certain"),
            atomic_folder(str(folder)) as out,
            out.file("a") as file,
        ):
            file.write(NEW)

    assert [NEW, NEW] == [path.read_bytes(), (folder / "a").read_bytes()]
    assert {path, folder} == set(tmp_path.iterdir())


@pytest.mark.fault(91, 92)
@pytest.mark.parametrize(
    ("target", "inputs", "error"),
    [
        ("none/x.ddset", (), UsageError),
        ("folder", (), UsageError),
        ("x.ddset", ("x.ddset",), UsageError),
        ("file/x.ddset", (), UsageError),
    ],
    ids=["missing folder", "a folder", "an input", "below a file"],
)
def test_faults_91_92_impossible_outputs_are_found_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, inputs: tuple[str, ...], error: type[DdlabelError]
) -> None:
    """Also with --force."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "x.ddset").write_bytes(OLD)
    with pytest.raises(error):
        check_output(target, force=True, inputs=inputs)


@pytest.mark.fault(102)
def test_fault_102_a_reader_sees_old_or_new_during_a_replacement(tmp_path: Path) -> None:
    """Never a mixture."""
    path = tmp_path / "x.ddset"
    path.write_bytes(OLD)
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        write(path, NEW if number % 2 else OLD, force=True)
    stop.set()
    reader.join()

    assert seen <= {OLD, NEW}

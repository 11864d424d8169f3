"""Several processes on one file: killed at any call, two writers, a reader while a writer replaces, two cleaners."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import forking

KILLED = """
class Killed(FileSystem):
    def __init__(self, at):
        self.at = at

def killed_at(name):
    def call(self, *arguments):
        self.at -= 1
        if self.at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(FileSystem, name)(self, *arguments)
    return call

for name in [name for name in vars(FileSystem) if not name.startswith("_")]:
    setattr(Killed, name, killed_at(name))

def save(made, force, at):
    fsio.current = Killed(at)
    made.save(PATH, force=force)

old, new = bundle(1), bundle(2)
found = []
for force in (False, True):
    for at in range(1, 100):
        if os.path.exists(PATH):
            os.unlink(PATH)
        if force:
            old.save(PATH, durable=False)
        (code,) = wait(fork(save, new, force, at))
        left = len(os.listdir(FOLDER))
        found.append((force, code, number_of(PATH) if os.path.exists(PATH) else None))
        bundle(3).save(PATH, force=True, durable=False)
        assert os.listdir(FOLDER) == ["x.ddset"], os.listdir(FOLDER)
        if code == 0:
            break
print(json.dumps(found))
"""


@pytest.mark.fault(99)
def test_killed_at_any_call_leaves_old_or_new(tmp_path: Path) -> None:
    """SIGKILL before every system call of a save in turn; the next write takes away what was left."""
    found, _errors = forking(KILLED, tmp_path)
    fresh, replacing = ([tuple(each[1:]) for each in found if each[0] is force] for force in (False, True))

    for outcomes, before in ((fresh, None), (replacing, 1)):
        codes = [code for code, _number in outcomes]
        assert [-9] * (len(codes) - 1) + [0] == codes
        assert (-9, before) == outcomes[0]
        assert (0, 2) == outcomes[-1]
        assert {before, 2} == {number for _code, number in outcomes}
        assert len(outcomes) > 7


WRITERS = """
def write(number, force):
    bundle(number).save(PATH, force=force, durable=False)

result = {}
for force in (False, True):
    rounds = []
    for _round in range(ROUNDS):
        if os.path.exists(PATH):
            os.unlink(PATH)
        codes = wait(*[fork(write, number, force) for number in range(4)])
        winner = number_of(PATH)
        rounds.append((sorted(codes), codes[winner]))
        assert os.listdir(FOLDER) == ["x.ddset"], os.listdir(FOLDER)
    result[str(force)] = rounds
print(json.dumps(result))
"""


def write_at_once(folder: Path, rounds: int, before: str = "") -> tuple[dict[str, list], str]:
    found, errors = forking(f"ROUNDS = {rounds}\n{before}{WRITERS}", folder)
    return found, errors


NO_LINKS = """
class NoLinks(FileSystem):
    def link(self, source, target):
        raise PermissionError(1, "no links here")

fsio.current = NoLinks()
"""


@pytest.mark.fault(90, 101)
@pytest.mark.parametrize("before", ["", NO_LINKS], ids=["", "without links"])
def test_of_several_writers_without_force_one_wins_and_the_others_are_told(tmp_path: Path, before: str) -> None:
    """Exit 2 naming the file for all but one, whose file it is; with --force every one gets through."""
    found, errors = write_at_once(tmp_path, 4, before)

    assert [[[0, 2, 2, 2], 0]] * 4 == found["False"]
    assert [[[0, 0, 0, 0], 0]] * 4 == found["True"]
    assert 12 == errors.count("x.ddset' exists, expected a new name; use --force to overwrite")


@pytest.mark.slow
@pytest.mark.fault(90, 101)
@pytest.mark.parametrize("before", ["", NO_LINKS], ids=["", "without links"])
def test_several_writers_many_times(tmp_path: Path, before: str) -> None:
    """The same race, again and again."""
    found, _errors = write_at_once(tmp_path, 60, before)

    assert [[[0, 2, 2, 2], 0]] * 60 == found["False"]
    assert [[[0, 0, 0, 0], 0]] * 60 == found["True"]


READER = """
bundle(0, SIZE).save(PATH)

def write():
    for number in range(1, TIMES):
        bundle(number, SIZE).save(PATH, force=True, durable=False)

def read():
    seen, stop = set(), time.monotonic() + 60
    while (TIMES - 1) not in seen and time.monotonic() < stop:
        seen.add(number_of(PATH))
    print(len(seen), file=sys.stderr)
    return 0 if (TIMES - 1) in seen else 9

print(json.dumps(wait(fork(write), *[fork(read) for _reader in range(READERS)])))
"""


@pytest.mark.fault(102)
@pytest.mark.parametrize(
    ("size", "times", "readers"), [(3000, 60, 1), pytest.param(3_000_000, 100, 3, marks=pytest.mark.slow)]
)
def test_readers_verify_old_or_new_while_a_writer_replaces(tmp_path: Path, size: int, times: int, readers: int) -> None:
    """Every opening is of one whole bundle, whose tensors agree with its manifest."""
    codes, errors = forking(f"SIZE, TIMES, READERS = {size}, {times}, {readers}\n{READER}", tmp_path)

    assert [0] * (1 + readers) == codes, errors
    assert max(map(int, errors.split())) > 1  # there was something to mix


LOCKS = """
def work(number):
    try:
        with fsio.exclusive(os.path.join(FOLDER, "lock")):
            with open(os.path.join(FOLDER, "inside"), "x"):
                pass
            time.sleep(0.002)
            os.unlink(os.path.join(FOLDER, "inside"))
            return 0 if number % 3 else os.kill(os.getpid(), signal.SIGKILL)
    except DdlabelError:
        return 6

codes = []
for _round in range(25):
    codes += wait(*[fork(work, number) for number in range(4)])
print(json.dumps(codes))
"""


@pytest.mark.fault(101)
def test_only_one_run_at_a_time_is_inside_a_lock(tmp_path: Path) -> None:
    """However many ask, some of them killed inside: the others are refused, and later ones get in."""
    codes, errors = forking(LOCKS, tmp_path)

    assert {0, 6, -9} == set(codes), errors
    assert "" == errors  # no two of them were inside

"""Free memory, read from texts as the system writes them."""

from __future__ import annotations

import pytest
import torch

from ddlabel import memory
from ddlabel.errors import ResourceError
from ddlabel.events import Event
from ddlabel.memory import cgroup_free, cgroup_paths, free_memory, meminfo_available
from ddlabel.stages._estimate import check_disk, readable, refuse_beyond

MEMINFO = "MemTotal:       16303428 kB\nMemFree:          712345 kB\nMemAvailable:    9123456 kB\nBuffers: 1 kB\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MEMINFO, 9123456 * 1024),
        ("MemTotal: 5 kB\n", None),
        ("MemAvailable:\n", None),
        ("MemAvailable: many kB\n", None),
        ("", None),
    ],
    ids=["usual", "old kernel", "no number", "no digits", "no file"],
)
def test_available_memory_of_the_system(text: str, expected: int | None) -> None:
    """What the kernel says can be allocated, not what is unused."""
    assert expected == meminfo_available(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0::/user.slice/a.scope\n", {"v2": "/user.slice/a.scope"}),
        ("9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n", {"v1": "/docker/abc", "v2": "/"}),
        ("3:cpuset:/x\n", {}),
        ("4:memory:/a:b\n", {"v1": "/a:b"}),
        ("nonsense\n", {}),
        ("", {}),
    ],
    ids=["version 2", "both", "no memory group", "colon in the path", "nonsense", "no file"],
)
def test_control_groups_of_a_process(text: str, expected: dict[str, str]) -> None:
    """Version 1 names its controllers, version 2 has the number 0."""
    assert expected == cgroup_paths(text)


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("1000\n", "700\n", 350),
        ("max\n", "700\n", None),
        ("9223372036854771712\n", "700\n", None),
        ("1000\n", "1200\n", 0),
        ("1000\n", "10\n", 1000),
        ("", "", None),
    ],
    ids=["some left", "no limit", "no limit in version 1", "over the limit", "mostly cache", "no files"],
)
def test_what_a_control_group_leaves(limit: str, used: str, expected: int | None) -> None:
    """Cached files that are not in use count as used and can be given up."""
    assert expected == cgroup_free(limit, used, {"inactive_file": 50}, "inactive_file")


def test_the_tightest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the system, the group and the groups around it, in both versions."""
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "4:memory:/job/7\n0::/slice/job\n",
        "/sys/fs/cgroup/memory/job/7/memory.limit_in_bytes": "9223372036854771712",
        "/sys/fs/cgroup/memory/job/7/memory.usage_in_bytes": "5",
        "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "5000",
        "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "3000",
        "/sys/fs/cgroup/memory/job/memory.stat": "cache 10\ntotal_inactive_file 400\n",
        "/sys/fs/cgroup/slice/memory.max": "4000",
        "/sys/fs/cgroup/slice/memory.current": "2000",
    }
    monkeypatch.setattr(memory, "_text", lambda path: files.get(path, ""))
    both = free_memory(torch.device("cpu"))
    del files["/sys/fs/cgroup/slice/memory.max"]
    older = free_memory(torch.device("cpu"))
    files.clear()

    assert (2000, 2400, None) == (both, older, free_memory(torch.device("cpu")))


def test_this_machine_has_some_memory() -> None:
    """The real files of Linux are understood."""
    free = free_memory(torch.device("cpu"))

    assert free is None or 2**20 < free < 2**50
    assert free_memory(torch.device("meta")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_that_torch_holds_unused_is_free() -> None:
    """Freeing a tensor gives its bytes back, although the driver does not see them."""
    device = torch.device("cuda")
    before = free_memory(device)
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    less = free_memory(device)
    del held

    assert before - less >= 2**28
    assert free_memory(device) >= less + 2**28


@pytest.mark.parametrize(("needed", "free", "fits"), [(100, 100, True), (101, 100, False), (10**18, None, True)])
def test_only_what_cannot_fit_is_refused(needed: int, free: int | None, fits: bool) -> None:
    """Both numbers are named, and what to lower; unknown free memory refuses nothing."""
    events: list[Event] = []
    device = torch.device("cpu")
    if fits:
        refuse_beyond(needed, free, ["--ipc"], device, events.append)
        assert readable(needed) in events[0].message
        assert ("not known" if free is None else "100 B is free") in events[0].message
        return
    with pytest.raises(ResourceError, match=r"needs about 101 B of memory on 'cpu'; 100 B is free; lower --ipc"):
        refuse_beyond(needed, free, ["--ipc"], device, events.append)


def test_a_result_that_the_disk_cannot_hold_is_refused() -> None:
    """Before it is computed."""
    check_disk(100, 100, "trajectories", "lower --experts")
    check_disk(100, None, "trajectories", "lower --experts")
    with pytest.raises(ResourceError, match=r"trajectories needs about 2.0 KiB of disk, 1.0 KiB is free"):
        check_disk(2048, 1024, "trajectories", "lower --experts")

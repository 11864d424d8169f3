"""Files of torch.save as plain data: the oracle is torch.load(weights_only=True); whatever is hostile has no effect."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddlabel import _plugins
from ddlabel.errors import BundleError, DdlabelError
from ddlabel.importers._sources import Sources
from ddlabel.importers._torch_file import read_torch


def read(path: Path):
    return read_torch(Sources([path]), path)


def saved(path: Path, value) -> Path:
    torch.save(value, path)
    return path


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool],
)
def test_tensors_of_every_type_come_back(tmp_path: Path, dtype) -> None:
    value = torch.arange(24).reshape(2, 3, 4).to(dtype)
    views = {"whole": value, "turned": value.transpose(0, 2), "part": value[1:, :, 1:3], "one": value[0, 0, 1]}
    found = read(saved(tmp_path / "x.pt", views))

    assert all(torch.equal(found[name], view) and found[name].dtype == dtype for name, view in views.items())


def test_numbers_texts_and_parameters_come_back(tmp_path: Path) -> None:
    value = collections.OrderedDict(
        a=[1, -5, 2**40, 0.5, True, None, "text", b"bytes"],
        b=(1, (2, 3, 4, 5)),
        c=torch.nn.Parameter(torch.ones(2)),
        d={},
    )
    found = read(saved(tmp_path / "x.pt", value))

    assert found["a"] == value["a"]
    assert found["b"] == value["b"]
    assert torch.equal(found["c"], torch.ones(2))


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_scalars_are_numbers_under_their_old_and_new_name(tmp_path: Path, core: str) -> None:
    """Every published file whose accuracies NumPy made names `numpy.core.multiarray.scalar`."""
    path = saved(tmp_path / "x.pt", [np.float64(0.4512), np.int64(7), np.float32(0.5), np.bool_(True)])
    _rewrite(path, lambda data: data.replace(b"cnumpy._core.multiarray\n", f"cnumpy.{core}.multiarray\n".encode()))

    assert read(path) == [0.4512, 7, 0.5, True]


def _rewrite(path: Path, change) -> None:
    """Change the pickle inside a file."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def _hostile(tmp_path: Path, wrap: str) -> Path:
    """A file whose unpickling makes a folder `planted`."""
    evil, path = Planted(tmp_path / "planted"), tmp_path / "evil.pt"
    if wrap == "plain pickle":
        path.write_bytes(pickle.dumps(evil))
    elif wrap == "legacy file of torch":
        torch.save({"data": evil}, path, _use_new_zipfile_serialization=False)
    elif wrap == "protocol 4":
        torch.save([evil], path, pickle_protocol=4)
    else:
        torch.save({"data": [[torch.zeros(1, 3, 4, 4), torch.zeros(1)]], "accs_all_exps": evil}, path)
    return path


@pytest.mark.parametrize("wrap", ["plain pickle", "legacy file of torch", "protocol 4", "result of DC"])
def test_what_must_be_unpickled_is_refused_without_an_effect(tmp_path: Path, refused, wrap: str) -> None:
    error = refused(3, _hostile(tmp_path, wrap), "--format", "dc")

    assert "unsafe pickle refused: convert it yourself" in error
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "'os.system'"),
        (b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.", "'builtins.eval'"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls a storage type"),
        (b"\x80\x02]}b.", "a list a state"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "no number"),
        (b"\x80\x02i\x1b[31mos\nsystem\n.", "INST"),
        (b"\x80\x02]q\x00h\x05.", "damaged"),
        (b"\x80\x02(((", "damaged"),
        (b"\x80\x02\x8a\x04\x01\x00\x00\x00Q.", "damaged"),
        (b"\x80\x02cos\x1b[31m\nsystem\n.", "x1b"),
    ],
)
def test_pickles_of_more_than_data_are_refused(tmp_path: Path, pickled: bytes, words: str) -> None:
    path = saved(tmp_path / "x.pt", [1])
    _rewrite(path, lambda _data: pickled)
    with pytest.raises(BundleError, match=words) as caught:
        read(path)

    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        pytest.param(b"})" + b"\x85" * 200_000 + b"Ns.", "nested more than 32 deep", id="deep key"),
        pytest.param(b")" + b"\x85" * 40 + b".", "nested more than 32 deep", id="deep tuple"),
        pytest.param(
            b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"Ns.", "nested more than", id="shared tuples"
        ),
        pytest.param(b"})Ns.", "a key of type tuple", id="empty tuple"),
        pytest.param(b"}NNs.", "a key of type NoneType", id="none"),
        pytest.param(b"}\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x1fNs.", "a key beyond", id="numbers of one hash"),
        pytest.param(b"}(K\x01K\x02K\x03u.", "without a value", id="half a pair"),
        pytest.param(b"ccollections\nOrderedDict\n])K\x01\x86a\x85R.", "damaged", id="pairs given to a call"),
        pytest.param(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n)NK\x01tQ.", "without name", id="storage"),
    ],
)
def test_keys_are_never_hashed_before_they_are_known(tmp_path: Path, pickled: bytes, words: str) -> None:
    """Nested tuples as keys end Python's stack, and shared ones its patience."""
    path = saved(tmp_path / "x.pt", [1])
    _rewrite(path, lambda _data: b"\x80\x02" + pickled)
    with pytest.raises(BundleError, match=words):
        read(path)


@pytest.mark.parametrize("share", [0, 3, 40, 97])
def test_truncated_files_are_refused(tmp_path: Path, share: int) -> None:
    path = saved(tmp_path / "x.pt", torch.arange(1000))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * share // 100])
    with pytest.raises(BundleError):
        read(path)


def test_a_flipped_bit_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", torch.arange(1000))
    data = bytearray(path.read_bytes())
    place = data.find(struct.pack("<qq", 500, 501))
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(BundleError, match="damaged"):
        read(path)


def test_compressed_and_overlapping_members_are_refused(tmp_path: Path) -> None:
    """torch writes plain members; a deflated one may be a bomb."""
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps([1], 2))
        archive.writestr("x/data/0", bytes(2**20))
    with pytest.raises(BundleError, match="compressed"):
        read(path)


def test_tensors_larger_than_their_storage_are_refused(tmp_path: Path) -> None:
    """A stride of 0 would make a copy of any size from one value."""
    path = saved(tmp_path / "x.pt", torch.ones(1).expand(30))
    with pytest.raises(BundleError, match="storage holds 1"):
        read(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_change_of_bytes_is_read_or_refused(data) -> None:
    """No other exception, whatever the pickle holds."""
    stream = io.BytesIO()
    torch.save({"data": [[torch.ones(2, 3, 2, 2), torch.tensor([0, 1])]], "accs": [np.float64(0.5)]}, stream)
    with zipfile.ZipFile(stream) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = bytearray(members["archive/data.pkl"])
    for _change in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(pickled) if name.endswith("data.pkl") else content)

    class Memory(Sources):
        def read(self, path, **_more):
            return bytearray(changed.getvalue())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(DdlabelError):
            read_torch(Memory([Path("x.pt")]), Path("x.pt"))


@pytest.mark.parametrize("name", ["x.pt", "x.npz", "x.tar"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_archives_that_lack_bytes_or_have_more_are_read_or_refused(tmp_path: Path, name: str, data) -> None:
    """The directory of a zip then points before its beginning."""
    path = tmp_path / name
    if name == "x.tar":
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("a.cls"), io.BytesIO())
    elif name == "x.npz":
        np.savez(path, images=np.zeros((2, 3, 4, 4), np.float32), labels=np.arange(2))
    else:
        torch.save({"images": torch.zeros(2, 3, 4, 4), "labels": torch.arange(2)}, path)
    content = bytearray(path.read_bytes())
    place, size = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 60))
    content[place : place + size] = content[place:place] if data.draw(st.booleans()) else bytes(2 * size)
    path.write_bytes(content)
    importer = {".pt": "dc", ".npz": "npz", ".tar": "webdataset"}[path.suffix]
    with contextlib.suppress(DdlabelError):
        _plugins.load("importers", importer, "IMPORTER")().read(Sources([path]))


def test_files_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", tmp_path / "missing.pt", tmp_path):
        with pytest.raises(DdlabelError):
            read(path)

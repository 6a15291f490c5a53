"""CompVis checkpoints whose pickles or archives are damaged or meant to harm: refused, nothing is run."""

from __future__ import annotations

import codecs
import gzip
import io
import pickle
import subprocess
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import compvis_layout as compvis
import pytest
import torch
from compvis_layout import TINY
from hostile import CANARY, CODE, Gadget, Refuse, assert_bounded

from s4s.models import checkpoint
from s4s.models.ldm import KINDS


@pytest.fixture
def refuse(refused: Refuse, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    monkeypatch.setitem(KINDS, "tiny", TINY)
    return lambda file, message, *options: refused("ldm", file, message, "--kind", "tiny", *options)


class Make:
    """``function(*arguments)`` when Python's own unpickler reads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


def named(module: str, name: str, tail: bytes = b")R") -> bytes:
    """A pickle that calls a name without arguments."""
    return b"\x80\x02}X\n\0\0\0state_dictc" + f"{module}\n{name}\n".encode() + tail + b"s."


GADGETS: dict[str, Any] = {
    "os.system": Gadget(),
    "eval": Make(eval, CODE),
    "exec": Make(exec, CODE),
    "Popen": Make(subprocess.Popen, ["touch", CANARY]),
    "partial": Make(partial, print),
    "torch.load": Make(torch.load, CANARY),
    "nested torch file": torch.zeros(2).untyped_storage(),
    "pickle.loads": Make(pickle.loads, pickle.dumps(Gadget())),
    "8 GiB bytearray": Make(bytearray, 1 << 33),
    "encoded text": Make(codecs.encode, "x" * 1000, "utf-32"),
    "counter": Counter("abc"),
}


def zipped(data: bytes, name: str = "archive/data.pkl", **members: bytes) -> bytes:
    """A torch file by hand."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(name, data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for key, content in members.items():
            archive.writestr(f"archive/data/{key[1:]}", content)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", GADGETS)
def test_foreign_names(refuse: Refuse, name: str, legacy: bool) -> None:
    data = compvis.dump({"a": GADGETS[name]}, _use_new_zipfile_serialization=not legacy)
    if isinstance(GADGETS[name], torch.UntypedStorage):  # torch writes it by reference; by value it would be code
        data = zipped(named("torch.storage", "_load_from_bytes"))
    refuse(data, "which is not allowed; nothing was run")


def test_the_payloads_used_here_do_run_under_pythons_own_unpickler(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.load(io.BytesIO(compvis.dump({"a": Gadget()})), weights_only=False, pickle_module=Blind)
    assert Path(CANARY).exists()


class Blind:
    """The pickle module, with Lightning's callback as anything."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return Counter if "lightning" in module else super().find_class(module, name)

    load, loads, dump = pickle.load, pickle.loads, pickle.dump


LIES = {
    "near miss": (named("collections", "OrderedDict "), "not allowed"),
    "dotted": (named("collections", "OrderedDict.fromkeys"), "not allowed"),
    "escape codes": (named("evil\x1b[2J", "na\rme" * 1000), r"refers to 'evil\\x1b"),
    "a blank for the dot": (named("torch FloatStorage", ""), "not allowed"),
    "protocol 4": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0etouch executed\x85R.", "damaged"),
    "instance": (b"\x80\x02(X\x0e\0\0\0touch executediposix\nsystem\n.", "damaged"),
    "extension": (b"\x80\x02\x82\x01.", "damaged"),
    "storage called": (named("torch", "FloatStorage"), "holds no 'state_dict'|damaged"),
    "device called": (named("torch", "device"), "damaged"),
    "empty stack": (b"\x80\x02.", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
    "unknown opcode": (b"\x80\x02\xff.", "damaged"),
    "4 GiB of text": (b"\x80\x02X\xff\xff\xff\xffx.", "damaged"),
    "2^63 bytes": (b"\x80\x04\x8e" + b"\xff" * 8 + b"x.", "damaged"),
    "many lists": (b"\x80\x02" + b"]" * 2_000_001 + b".", "more than 2,000,000 opcodes"),
    "many marks": (b"\x80\x02" + b"(" * 2_000_001, "more than 2,000,000 opcodes|damaged"),
    "deep list": (b"\x80\x02" + b"]" * 190_000 + b"a" * 189_999 + b".", "holds no 'state_dict'"),
    "list in itself": (b"\x80\x02]q\0h\0a.", "holds no 'state_dict'"),
    "memo far away": (b"\x80\x02Nr\xff\xff\xff\x7f.", "holds no 'state_dict'"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", LIES)
def test_pickles_by_hand(refuse: Refuse, name: str, legacy: bool) -> None:
    data, message = LIES[name]
    refuse(data if legacy else zipped(data), f"{message}|damaged" if legacy else message)


# --- storages ---


class Reference:
    """Written as a persistent id: torch's way to name a storage."""

    def __init__(self, *value: Any) -> None:
        self.value = value


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> Any:
        return value.value if isinstance(value, Reference) else None


def written(value: Any) -> bytes:
    Pickler(file := io.BytesIO(), 2).dump(value)
    return file.getvalue()


def stored(count: int = 4, key: str = "0", size: int = 4, stride: int = 1, offset: int = 0) -> Callable[[bool], bytes]:
    """A checkpoint of one tensor, as torch writes it, with numbers of our own; of the old format or the new."""

    def make(old: bool) -> bytes:
        reference = Reference("storage", torch.FloatStorage, key, "cpu", count, *[None] * old)
        arguments = (reference, offset, (size,), (stride,), False, OrderedDict())
        return filed({"state_dict": {"a": Make(torch._utils._rebuild_tensor_v2, *arguments)}}, old)

    return make


def filed(value: Any, old: bool) -> bytes:
    """A torch file with one storage of four numbers, named 0."""
    if not old:
        return zipped(written(value), _0=bytes(16))
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(map(written, (*head, value, ["0"]))) + (4).to_bytes(8, "little") + bytes(16)


STORAGES: dict[str, Callable[[bool], bytes]] = {
    "view beyond": stored(size=1 << 33),
    "offset beyond": stored(offset=1 << 40),
    "stride beyond": stored(stride=1 << 40),
    "negative size": stored(size=-1),
    "a trillion values": stored(10**12, size=10**12),
    "negative count": stored(-4),
    "count too large": stored(5),
    "key missing": stored(key="7"),
    "key climbs": stored(key="../version"),
    "no storage": partial(filed, {"state_dict": Reference("module", "x", "y", CODE)}),
    "text for a storage": partial(filed, {"state_dict": Reference("storage")}),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", STORAGES)
def test_storages_that_are_not_what_they_say(refuse: Refuse, name: str, old: bool) -> None:
    refuse(STORAGES[name](old), "damaged or truncated")


@pytest.mark.parametrize("old", [False, True])
def test_the_writers_by_hand_are_honest_when_asked(refuse: Refuse, old: bool) -> None:
    refuse(stored()(old), "lacks the tensor 'input_blocks.0.0.weight'")  # read without complaint; it is no network


# --- archives and damaged files ---


def test_truncated_at_every_tenth(refuse: Refuse) -> None:
    for new in (True, False):
        data = compvis.dump(compvis.state_dict(*compvis.draw(TINY)), _use_new_zipfile_serialization=new)
        for tenth in range(10):
            refuse(data[: len(data) * tenth // 10], "damaged or truncated" if tenth else "has 0 bytes")
        refuse(data[:-1], "damaged or truncated")


def deflated() -> bytes:
    with zipfile.ZipFile(io.BytesIO(compvis.honest())) as old, zipfile.ZipFile(file := io.BytesIO(), "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


@cache
def bomb() -> bytes:
    """More in it than ``assert_bounded`` allows by half."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(10):
            archive.writestr(f"archive/data/{i}", bytes(50_000_000))
    return file.getvalue()


def overlapping(copies: int = 2000) -> bytes:
    """Many entries of the directory, one stored member: 2000 times the file in memory."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(1 << 20))
        for i in range(1, copies):
            archive.filelist.append(info := zipfile.ZipInfo(f"archive/data/{i}"))
            info.header_offset, info.file_size = archive.filelist[1].header_offset, 1 << 20
            info.compress_size, info.CRC = 1 << 20, archive.filelist[1].CRC
    return file.getvalue()


def hidden(name: str) -> bytes:
    """An honest archive with a second pickle in it."""
    file = io.BytesIO(compvis.honest())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, named("posix", "system", b"X\x0e\0\0\0touch executed\x85R"))
    return file.getvalue()


def tar() -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(data := pickle.dumps(Gadget()))
        archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated": (deflated, "compressed or overlap"),
    "zip bomb": (bomb, "compressed or overlap"),
    "overlapping members": (overlapping, "compressed or overlap"),
    "another pickle": (lambda: hidden("archive/more.pkl"), "'posix.system', which is not allowed"),
    "the pickle twice": (lambda: hidden("archive/data.pkl"), "'posix.system', which is not allowed"),
    "the pickle in capitals": (lambda: hidden("archive/DATA.PKL"), "'posix.system', which is not allowed"),
    "no pickle": (lambda: zipped(b"", "archive/nothing"), "damaged"),
    "big-endian": (lambda: zipped(b"", "archive/byteorder"), "damaged"),
    "a large pickle": (lambda: zipped(bytes(checkpoint.MAX_PICKLE_BYTES + 1)), "a pickle of 67,108,865 bytes"),
    "gzip": (lambda: gzip.compress(compvis.honest()), "damaged"),
    "tar": (tar, "damaged|not allowed"),
    "text": (lambda: b"<html><body>404 not found</body></html>" * 99, "damaged"),
    "an executable": (lambda: b"\x7fELF" + bytes(999), "damaged"),
    "zeros": (lambda: bytes(4096), "damaged"),
    "a plain pickle": (lambda: pickle.dumps({"state_dict": {}}), "damaged"),
    "a plain pickle with code": (lambda: pickle.dumps(Gadget(), 2), "'posix.system', which is not allowed"),
    "TorchScript": (lambda: zipped(b"", "archive/constants.pkl"), "damaged"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoints(refuse: Refuse, name: str) -> None:
    make, message = FILES[name]
    refuse(make(), message)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    pickles = [LIES[name][0] for name in ("4 GiB of text", "2^63 bytes", "many lists", "many marks", "deep list")]
    lies = [STORAGES[name](False) for name in ("view beyond", "a trillion values", "count too large")]
    bombs = [
        compvis.dump({"a": GADGETS["8 GiB bytearray"]}),
        *(zipped(data) for data in pickles),
        *lies,
        *(FILES[name][0]() for name in ("deflated", "zip bomb", "overlapping members", "a large pickle")),
    ]
    assert_bounded(tmp_path, "ldm", bombs)

"""Network pickles whose nested torch files are not what they say."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hostile import CODE, TOUCH, Refuse, assert_bounded
from nvidia_pickle import Call, Name, Raw, dump, torch_zip, with_storage
from nvidia_pickle import refuse as refuse

from s4s.models.convert import import_edm


def nested(storage: Any, magic: int = 0x1950A86A20F9469CFC6C, little: bool = True, protocol: int = 2) -> bytes:
    head = (magic, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}})
    return b"".join(dump(part, protocol) for part in (*head, storage, ["0"])) + (16).to_bytes(8, "little") + bytes(64)


class Storage:
    """A reference to a storage by persistent id, as torch writes it."""

    def __new__(cls, kind: Any = ("torch", "FloatStorage"), key: Any = "0", count: Any = 16, view: Any = None) -> Any:
        name = Raw(b"c%s\n%s\n" % (kind[0].encode(), kind[1].encode()))
        return Raw(dump(("storage", name, key, "cpu", count, view), 2)[2:-1] + pickle.BINPERSID)


NESTED = {
    "pickle": (dump(Call(Name("os", "system"), (TOUCH,))), "os.system"),
    "storage": (nested(Call(Name("posix", "system"), (TOUCH,)), protocol=4), "posix.system"),
    "storage, protocol 2": (nested(Raw(b"cposix\nsystem\n(X\x0e\0\0\0touch executedtR")), "posix.system"),
    "keys": (nested(Storage())[:-72] + dump(Call(Name("os", "system"), (TOUCH,))), "hold"),
    "magic": (nested(Storage(), magic=1), "not a torch file of the old format"),
    "big-endian": (nested(Storage(), little=False), "not little-endian"),
    "module id": (nested(Raw(dump(("module", "x", "y", CODE), 2)[2:-1] + pickle.BINPERSID)), "something else than one"),
    "text id": (nested(Raw(b"Pstorage\n")), "opcode 0x50"),
    "foreign storage": (nested(Storage(("torch", "Evil"))), r"torch\.Evil"),
    "foreign module": (nested(Storage(("os", "FloatStorage"))), r"os\.FloatStorage"),
    "storage called": (nested(Raw(b"ctorch\nFloatStorage\n)R")), "not callable"),
    "double": (nested(Storage(("torch", "DoubleStorage"))), "stored as float64"),
    "half": (nested(Storage(("torch", "HalfStorage"))), "stored as float16"),
    "a trillion values": (nested(Storage(count=10**12)), "storage is malformed"),
    "two billion values": (nested(Storage(count=2**31 - 1)), "should hold 2,147,483,647 values"),
    "negative": (nested(Storage(count=-16)), "storage is malformed"),
    "too few values": (nested(Storage(count=17)), "should hold 17"),
    "other key": (nested(Storage(key="1")), "another storage"),
    "a view": (nested(Storage(view=("1", 0, 1 << 40))), "something else than one"),
    "count is text": (nested(Storage(count="16")), "storage is malformed"),
    "huge header": (nested(Storage())[:21] + b"X\0\0\xff\0" + b"a" * 100, "truncated"),
    "many opcodes": (pickle.PROTO + b"\x02" + pickle.EMPTY_LIST * 10_000 + b".", "more than 100 opcodes"),
    "nothing": (b"", "truncated"),
    "zip": (torch_zip(), "opcode 0x50"),
    "zeros": (bytes(1000), "opcode 0x00"),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_torch_files(refuse: Refuse, name: str) -> None:
    data, message = NESTED[name]
    refuse(with_storage(data), message)


def test_the_nested_writer_is_honest_when_asked(tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(with_storage(nested(Storage())))
    import_edm(tmp_path / "net.pkl", tmp_path / "net.safetensors", None, allow_unverified=True)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    assert_bounded(
        tmp_path,
        "edm",
        (with_storage(NESTED[name][0]) for name in ("a trillion values", "two billion values", "huge header")),
    )

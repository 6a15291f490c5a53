"""Network pickles that are damaged, or streams of opcodes meant to harm."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
import zlib
from pathlib import Path

import pytest
from hostile import Refuse, assert_bounded
from nvidia_pickle import Raw, dump, honest, layer, network, start, torch_zip
from nvidia_pickle import refuse as refuse

from s4s.errors import Error
from s4s.models.convert import import_edm
from s4s.models.ddpmpp import UNetConfig


@pytest.mark.parametrize("tenth", range(10))
def test_truncated(refuse: Refuse, tenth: int) -> None:
    data = honest()[: len(honest()) * tenth // 10]
    refuse(data, "truncated or damaged" if data else "has 0 bytes")


def test_truncated_by_one_byte(refuse: Refuse) -> None:
    refuse(honest()[:-1], "truncated or damaged")


def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    data = honest()
    for position in range(7, len(data), len(data) // 40):
        pkl, out = tmp_path / "net.pkl", tmp_path / f"out{position}" / "net.safetensors"
        pkl.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            import_edm(pkl, out, None, allow_unverified=True)
        except Error as error:
            assert str(error).isprintable() and not out.parent.exists()


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    return file.getvalue()


MANY = 400_001
STREAMS = {
    "text": (b"<html><body>404 not found</body></html>" * 99, "opcode 0x3c"),
    "zip bomb": (bomb(), "opcode 0x50"),
    "deflated": (zlib.compress(honest()), "pickle"),
    "an executable": (b"\x7fELF" + bytes(999), "opcode 0x7f"),
    "a torch file": (torch_zip(), "opcode 0x50"),
    "zeros": (bytes(4096), "opcode 0x00"),
    "two pickles": (honest() + honest(), "bytes follow the end of the pickle"),
    "a tail": (honest() + b"#!/bin/sh", "9 bytes follow"),
    "protocol 0": (pickle.dumps({"ema": None}, 0), "opcode"),
    "protocol 77": (b"\x80\x4d}.", "protocol 77"),
    "frame": (start(pickle.FRAME + b"\xff" * 8 + b"}."), "frame runs past"),
    "4 GiB of bytes": (start(pickle.BINBYTES + b"\xff\xff\xff\xff" + b"x."), "truncated"),
    "4 GiB of text": (start(pickle.BINUNICODE + b"\xff\xff\xff\xff" + b"x."), "bytes of text"),
    "2^63 bytes": (start(pickle.BINBYTES8 + b"\xff" * 8 + b"x."), "opcode 0x8e"),
    "a bytearray": (start(pickle.BYTEARRAY8 + b"\xff" * 7 + b"\0x."), "opcode 0x96"),
    "2 GiB integer": (start(pickle.LONG4 + b"\xff\xff\xff\x7f" + b"x."), "opcode 0x8b"),
    "255-byte integer": (start(pickle.LONG1 + b"\xff" + b"x" * 255 + b"."), "integer of 255 bytes"),
    "decimal integer": (start(b"I" + b"9" * 100_000 + b"\n."), "opcode 0x49"),
    "not UTF-8": (start(pickle.SHORT_BINUNICODE + b"\x02\xff\xff."), "not UTF-8"),
    "endless name": (start(pickle.GLOBAL + b"a" * 100_000), "has no end"),
    "extension": (start(pickle.EXT1 + b"\x01."), "opcode 0x82"),
    "instance": (start(b"(S'touch executed'\nios\nsystem\n."), "opcode"),
    "object": (start(b"(cos\nsystem\no."), "os.system"),
    "keyword new": (start(b"}}}\x92."), "opcode 0x92"),
    "out of band": (start(pickle.NEXT_BUFFER + b"."), "opcode 0x97"),
    "persistent id": (start(b"NQ."), "persistent id"),
    "text persistent id": (start(b"Pid\n."), "opcode 0x50"),
    "empty stack": (start(b"."), "value that is not there"),
    "nothing to call": (start(b")R."), "value that is not there"),
    "no mark": (start(b"]e."), "never opened"),
    "open mark": (start(b"(}."), "left over"),
    "left over": (start(b"N}."), "left over"),
    "append to a dict": (start(b"}Na."), "fills a list"),
    "items of a list": (start(b"](NNu."), "fills a dict"),
    "odd items": (start(b"}(Nu."), "key and no value"),
    "members of a list": (start(b"](N\x90."), "fills a set"),
    "list as key": (start(b"}]Ns."), "key of type list"),
    "number as key": (start(b"}K\x01Ns."), "key of type int"),
    "tuple as member": (start(b"\x8f()\x90."), "key of type tuple"),
    "name of numbers": (start(b"K\x01K\x02\x93."), "not text"),
    "state for None": (start(b"N}b."), "takes none"),
    "memo of nothing": (start(pickle.MEMOIZE + b"."), "value that is not there"),
    "memo never stored": (start(b"h\x07."), "value 7"),
    "memo at 2^32": (start(b"Nr\xff\xff\xff\xff0."), "opcode 0x30"),
    "memo, sparse": (start(b"N" + b"".join(b"r" + (i << 16).to_bytes(4, "little") for i in range(65_535)) + b"."),
                     "dictionary at the top"),
    "many marks": (start(b"(" * MANY), "400,000 opcodes"),
    "many lists": (start(b"]" * MANY), "400,000 opcodes"),
    "many memos": (start(b"N" + pickle.MEMOIZE * MANY), "400,000 opcodes"),
    "deep tuple": (start(b"N" + pickle.TUPLE1 * 390_000 + b"."), "dictionary at the top"),
    "deep list": (start(b"]" * 190_000 + b"a" * 189_999 + b"."), "dictionary at the top"),
    "list in itself": (start(b"]\x94h\0a."), "dictionary at the top"),
    "dict in itself": (start(b"}\x94\x8c\x01ah\0s."), "no network under the key 'ema'"),
    "much text": (start((pickle.BINUNICODE + (4 << 20).to_bytes(4, "little") + b"a" * (4 << 20)) * 5), "of text"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams(refuse: Refuse, name: str) -> None:
    data, message = STREAMS[name]
    refuse(data, message)


def test_deep_layers_are_freed_without_a_crash(refuse: Refuse) -> None:
    """15,000 layers inside each other, written by repeating the opcodes before and after the innermost one."""
    before, after = dump(layer("X", _modules={"a": Raw(b"?")}), 3)[2:-1].split(b"?")
    before, after = (re.sub(rb"q.", b"", part) for part in (before, after))  # without memo
    refuse(start(b"}X\x03\0\0\0ema" + before * 15_000 + b"N" + after * 15_000 + b"s."), "class X; only")


def test_memory_stays_bounded(tmp_path: Path) -> None:
    wide = UNetConfig(2, channels=1, model_channels=128, channel_mult=(2,), blocks=1, attention=())
    large = dump(network(wide)[1])
    bombs = ("4 GiB of bytes", "4 GiB of text", "2^63 bytes", "a bytearray", "memo at 2^32", "memo, sparse",
             "many lists", "many memos", "much text")  # fmt: skip
    grown = assert_bounded(tmp_path, "edm", (STREAMS[name][0] for name in bombs), large)
    assert len(large) > 25e6 and 1024 * grown < 3.5 * len(large) + 20e6

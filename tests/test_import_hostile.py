"""Network pickles that are damaged or meant to harm: each is refused in one line, runs nothing, and leaves nothing."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nvidia_pickle import (
    DTYPE,
    EASY_DICT,
    LOAD_BYTES,
    MODULE_DICT,
    PARAMETER,
    RECONSTRUCT,
    SCALAR,
    TENSOR,
    Call,
    Name,
    Raw,
    child,
    dump,
    layer,
    network,
    parameter,
    state,
    storage_bytes,
    tensor,
)

from s4s.errors import Error
from s4s.models import convert
from s4s.models.convert import import_edm
from s4s.models.ddpmpp import UNetConfig

CANARY = "executed"  # what a payload would create in the working directory
TOUCH = f"touch {CANARY}"
CODE = f"open({CANARY!r}, 'w').close()"


@functools.cache
def honest() -> bytes:
    return dump(network()[1])


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """An otherwise honest file in which ``change`` altered the top dictionary."""
    top = network()[1]
    change(top)
    return dump(top)


def refuse(tmp_path: Path, data: bytes, message: str, **options: Any) -> None:
    """Import must fail with one readable line that matches, run no payload, and write nothing."""
    pkl, out = tmp_path / "net.pkl", tmp_path / "out" / "net.safetensors"
    pkl.write_bytes(data)
    refuse_file(pkl, out, message, **{"sha256": hashlib.sha256(data).hexdigest()} | options)


def refuse_file(pkl: Path, out: Path, message: str, **options: Any) -> None:
    with pytest.raises(Error, match=message) as caught:
        import_edm(pkl, out, **options)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600
    assert not Path(CANARY).exists()
    assert not out.parent.exists() or not any(out.parent.iterdir())


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_honest_file_is_accepted_and_its_source_code_is_not_run(tmp_path: Path) -> None:
    def plant(top: dict[str, Any]) -> None:
        top["ema"].args[0]["module_src"] = CODE

    (tmp_path / "net.pkl").write_bytes(changed(plant))
    record = import_edm(tmp_path / "net.pkl", tmp_path / "net.safetensors", None, allow_unverified=True)
    assert record["weights"]["tensors"] == 147
    assert not Path(CANARY).exists()


def test_the_payloads_used_here_do_run_under_pythons_own_unpickler() -> None:
    pickle.loads(dump(Call(Name("os", "system"), (TOUCH,))))
    assert Path(CANARY).exists()


# --- calls of foreign names ---

GADGETS = {
    "os.system": Call(Name("os", "system"), (TOUCH,)),
    "posix.system": Call(Name("posix", "system"), (TOUCH,)),
    "subprocess.Popen": Call(Name("subprocess", "Popen"), (["touch", CANARY],)),
    "builtins.eval": Call(Name("builtins", "eval"), (CODE,)),
    "builtins.exec": Call(Name("builtins", "exec"), (CODE,)),
    "builtins.getattr": Call(Call(Name("builtins", "getattr"), (Name("os", "path"), "os")), ()),
    "builtins.__import__": Call(Name("builtins", "__import__"), ("os",)),
    "builtins.open": Call(Name("builtins", "open"), (CANARY, "w")),
    "builtins.bytearray": Call(Name("builtins", "bytearray"), (1 << 40,)),
    "functools.partial": Call(Call(Name("functools", "partial"), (Name("os", "system"), TOUCH)), ()),
    "operator.methodcaller": Call(Name("operator", "methodcaller"), ("system", TOUCH)),
    "torch.load": Call(Name("torch", "load"), (CANARY,)),
    "torch.hub.load": Call(Name("torch.hub", "load"), ("evil/repo", "model")),
    "torch.serialization.load": Call(Name("torch.serialization", "load"), (CANARY,)),
    "pickle.loads": Call(Name("pickle", "loads"), (dump(Call(Name("os", "system"), (TOUCH,))),)),
    "numpy.load": Call(Name("numpy", "load"), (CANARY,)),
    "numpy.core.multiarray._reconstruct": Call(
        Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"),)
    ),
    "_codecs.encode": Call(Name("_codecs", "encode"), ("x", "rot13")),
    "dotted": Call(Name("collections", "OrderedDict.fromkeys"), (("a",),)),
    "near miss": Call(Name("torch.storage", "_load_from_bytes "), (b"",)),
    "escape codes": Call(Name("evil\x1b[2J\n", "na\rme" * 1000), ()),
    "not called": Name("os", "system"),
    "as a class": Call(Name("subprocess", "Popen"), (["touch", CANARY],), pickle.NEWOBJ),
}


@pytest.mark.parametrize("place", ["top", "inside ema", "instead of the file"])
@pytest.mark.parametrize("name", GADGETS)
def test_foreign_names(tmp_path: Path, name: str, place: str) -> None:
    gadget = GADGETS[name]
    places = {
        "top": lambda: changed(lambda top: top.update(augment_pipe=gadget)),
        "inside ema": lambda: changed(lambda top: state(child(top["ema"], "model")).update(extra=gadget)),
        "instead of the file": lambda: dump(gadget),
    }
    refuse(tmp_path, places[place](), "not allowed in this format; nothing was run")


def test_the_foreign_name_is_told(tmp_path: Path) -> None:
    refuse(tmp_path, dump(GADGETS["os.system"]), r"refers to 'os\.system', which")


def with_storage(data: bytes) -> bytes:
    """A file in which one tensor's nested torch file is ``data``."""
    weight = Call(PARAMETER, (Call(TENSOR, (Call(LOAD_BYTES, (data,)), 0, (16,), (1,), False, OrderedDict())),
                              False, OrderedDict()))  # fmt: skip
    return changed(lambda top: state(child(top["ema"], "model.map_layer0"))["_parameters"].update(bias=weight))


def nested(storage: Any, magic: int = 0x1950A86A20F9469CFC6C, little: bool = True, protocol: int = 2) -> bytes:
    head = (magic, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}})
    return b"".join(dump(part, protocol) for part in (*head, storage, ["0"])) + (16).to_bytes(8, "little") + bytes(64)


class Storage:
    """A reference to a storage by persistent id, as torch writes it."""

    def __new__(cls, kind: Any = ("torch", "FloatStorage"), key: Any = "0", count: Any = 16, view: Any = None) -> Any:
        name = Raw(b"c%s\n%s\n" % (kind[0].encode(), kind[1].encode()))
        return Raw(dump(("storage", name, key, "cpu", count, view), 2)[2:-1] + pickle.BINPERSID)


def torch_zip() -> bytes:
    file = io.BytesIO()
    torch.save(torch.zeros(16).untyped_storage(), file)
    return file.getvalue()


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
def test_nested_torch_files(tmp_path: Path, name: str) -> None:
    data, message = NESTED[name]
    refuse(tmp_path, with_storage(data), message)


def test_the_nested_writer_is_honest_when_asked(tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(with_storage(nested(Storage())))
    import_edm(tmp_path / "net.pkl", tmp_path / "net.safetensors", None, allow_unverified=True)


# --- odd arguments to the allowed names ---

HOOKS: Any = OrderedDict()
GOOD = Call(LOAD_BYTES, (storage_bytes(torch.zeros(16)),))
META = {"type": "class", "version": 6, "module_src": CODE, "class_name": "X", "state": {}}
ODD = {
    "reconstruct nothing": Call(RECONSTRUCT, ()),
    "reconstruct text": Call(RECONSTRUCT, (CODE,)),
    "reconstruct twice": Call(RECONSTRUCT, (META, META)),
    "another version": Call(RECONSTRUCT, (META | {"version": 5},)),
    "version by bool": Call(RECONSTRUCT, (META | {"version": True},)),
    "another type": Call(RECONSTRUCT, (META | {"type": "function"},)),
    "another key": Call(RECONSTRUCT, (META | {"hook": 1},)),
    "class name": Call(RECONSTRUCT, (META | {"class_name": "X; " + CODE},)),
    "class name list": Call(RECONSTRUCT, (META | {"class_name": ["X"]},)),
    "state list": Call(RECONSTRUCT, (META | {"state": []},)),
    "ordered dict of pairs": Call(Name("collections", "OrderedDict"), ([("a", 1)],)),
    "easy dict of a name": Call(EASY_DICT, (RECONSTRUCT,)),
    "module dict of modules": Call(MODULE_DICT, ({"a": 1},), pickle.NEWOBJ),
    "module dict, list state": Call(MODULE_DICT, (), pickle.NEWOBJ, ["a"]),
    "module dict, two states": Call(MODULE_DICT, (), pickle.NEWOBJ, {"a": Raw(b"N")}),
    "load nothing": Call(LOAD_BYTES, ()),
    "load text": Call(LOAD_BYTES, ("storage",)),
    "load two": Call(LOAD_BYTES, (b"", b"")),
    "parameter of a storage": Call(PARAMETER, (GOOD, False, HOOKS)),
    "parameter with hooks": Call(PARAMETER, (tensor(torch.zeros(2)), False, {"a": RECONSTRUCT})),
    "parameter, few": Call(PARAMETER, (tensor(torch.zeros(2)),)),
    "tensor of bytes": Call(TENSOR, (b"x" * 64, 0, (16,), (1,), False, HOOKS)),
    "tensor, few": Call(TENSOR, (GOOD,)),
    "tensor, metadata": Call(TENSOR, (GOOD, 0, (16,), (1,), False, HOOKS, {"a": 1})),
    "tensor, hooks": Call(TENSOR, (GOOD, 0, (16,), (1,), False, [("a", 1)])),
    "tensor, huge shape": tensor(torch.zeros(2), size=(1 << 40,), stride=(1,)),
    "tensor, negative shape": tensor(torch.zeros(2), size=(-1,), stride=(1,)),
    "tensor, negative stride": tensor(torch.zeros(2), size=(2,), stride=(-1,)),
    "tensor, negative offset": tensor(torch.zeros(2), offset=-4),
    "tensor, empty": tensor(torch.zeros(2), size=(0,), stride=(1,)),
    "tensor, bool shape": tensor(torch.zeros(1), size=(True,), stride=(1,)),
    "tensor, float shape": tensor(torch.zeros(2), size=(2.0,), stride=(1,)),
    "tensor, list shape": tensor(torch.zeros(2), size=[2], stride=[1]),
    "tensor, no stride": tensor(torch.zeros(2), stride=()),
    "tensor, many dimensions": tensor(torch.zeros(2), size=(1,) * 64, stride=(1,) * 64),
    "dtype object": Call(DTYPE, ("O", False, True)),
    "dtype O8": Call(DTYPE, ("O8", False, True)),
    "dtype structured": Call(DTYPE, ([("a", "O")], False, True)),
    "dtype void": Call(DTYPE, ("V1000000000", False, True)),
    "dtype state": Call(DTYPE, ("f8", False, True), state=(3, "|", None, ("a",), {"a": 1}, 8, 8, 63)),
    "dtype big-endian": Call(DTYPE, ("f8", False, True), state=(3, ">", None, None, None, -1, -1, 0)),
    "dtype short state": Call(DTYPE, ("f8", False, True), state=(3,)),
    "scalar of text": Call(SCALAR, ("f8", b"x" * 8)),
    "scalar, long": Call(SCALAR, (Call(DTYPE, ("f8", False, True)), b"x" * 9)),
    "scalar, list": Call(SCALAR, (Call(DTYPE, ("f8", False, True)), [1])),
    "call of a dict": Call({}, ()),
    "call of a layer": Call(layer("X"), ()),
    "call with a list": Call(RECONSTRUCT, [META]),
    "state for a dict": Raw(b"}}b"),
    "state for a tensor": Call(TENSOR, (GOOD, 0, (16,), (1,), False, HOOKS), state={"a": 1}),
}


@pytest.mark.parametrize("name", ODD)
def test_allowed_names_with_odd_arguments(tmp_path: Path, name: str) -> None:
    gadget = ODD[name]
    if name == "module dict, two states":
        gadget = Raw(dump(gadget)[2:-1] + dump({"b": 1})[2:-1] + b"b")
    refuse(tmp_path, dump({"extra": gadget}, 3), "net.pkl: ")


# --- networks that are not what they say ---


def put(path: str, kind: str, key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda top: state(child(top["ema"], path))[kind].update({key: value})


def kwargs(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda top: state(top["ema"])["_init_kwargs"].update(changes)


def meta(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda top: top["ema"].args[0].update(changes)


def laughs(depth: int = 60) -> Any:
    """Lists of ten times the same list: 10^depth elements when walked or printed."""
    value: Any = ["ha"] * 10
    for _ in range(depth):
        value = [value] * 10
    return value


def diamond(top: dict[str, Any]) -> None:
    """Layers that hold the same two layers: 2^40 paths."""
    inner = layer("X")
    for _ in range(40):
        inner = layer("X", _modules={"a": inner, "b": inner})
    state(top["ema"])["_modules"]["more"] = inner


def itself(top: dict[str, Any]) -> None:
    modules = state(top["ema"])["_modules"]
    modules["more"] = layer("X", _modules=modules)


BIAS = ("model.map_layer0", "_parameters", "bias")
LAYERS = {
    "missing tensor": (put(*BIAS, None), r"lacks tensor 'model\.map_layer0\.bias'"),
    "extra tensor": (put("model", "_buffers", "freqs", tensor(torch.zeros(2))), r"unknown tensor 'model\.freqs'"),
    "wrong shape": (put(*BIAS, parameter(torch.zeros(15))), r"is torch\.float32 \[15\], needs torch\.float32 \[16\]"),
    "transposed": (put("model.map_layer0", "_parameters", "weight", parameter(torch.zeros(4, 16))), r"\[4, 16\]"),
    "doubles": (put(*BIAS, parameter(torch.zeros(16).double())), "as float64; published EDM weights are float32"),
    "bfloat16": (put(*BIAS, parameter(torch.zeros(16).bfloat16())), "stored as bfloat16"),
    "integers": (put(*BIAS, parameter(torch.zeros(16).long())), "stored as int64"),
    "NaN": (put(*BIAS, parameter(torch.full([16], float("nan")))), "NaN or infinity"),
    "infinity": (put(*BIAS, parameter(torch.tensor([1.0] * 15 + [float("-inf")]))), "NaN or infinity"),
    "expanded": (put(*BIAS, parameter(torch.zeros(1), size=(16,), stride=(0,))), "does not fit into its storage"),
    "beyond the storage": (put(*BIAS, parameter(torch.zeros(16), offset=1)), "does not fit"),
    "long strides": (put(*BIAS, parameter(torch.zeros(16), stride=((1 << 31) - 1,))), "does not fit"),
    "other filter": (put("model.enc.2x2_down.conv0", "_buffers", "resample_filter", tensor(torch.ones(1, 1, 2, 2))),
                     r"not the filter \[1, 1\]"),
    "text for a tensor": (put(*BIAS, "zeros"), "is not a tensor"),
    "layer for a tensor": (put(*BIAS, layer("Linear")), "is not a tensor"),
    "tensor for a layer": (put("model", "_modules", "more", tensor(torch.zeros(2))), "is not a layer"),
    "dotted name": (put("model", "_buffers", "a.b", tensor(torch.zeros(2))), "malformed name"),
    "escape codes": (put("model", "_buffers", "\x1b[2J", tensor(torch.zeros(2))), "malformed name"),
    "endless name": (put("model", "_modules", "a" * 10_000, layer("X")), "malformed name"),
    "parameters are a list": (lambda top: state(top["ema"]).update(_parameters=[1]), "not a dictionary"),
    "modules are a list": (lambda top: state(top["ema"]).update(_modules=["model"]), "not a SongUNet"),
    "there twice": (put("model.map_layer0", "_buffers", "bias", tensor(torch.zeros(16))), "there twice"),
    "2^40 layers": (diamond, "malformed name|more than"),
    "layers in a circle": (itself, "malformed name|more than"),
    "no ema": (lambda top: top.pop("ema"), "no network under the key 'ema'"),
    "ema is a tensor": (lambda top: top.update(ema=tensor(torch.zeros(2))), "no network under the key 'ema'"),
    "ema is a container": (lambda top: top.update(ema=Call(MODULE_DICT, (), pickle.NEWOBJ)), "class ModuleDict"),
    "a baseline": (meta(class_name="VPPrecond"), "class VPPrecond; only EDMPrecond"),
    "another network": (lambda top: child(top["ema"], "model").args[0].update(class_name="UNet"), "not a SongUNet"),
    "old version": (meta(version=3), "persistence version 6"),
    "no arguments": (lambda top: state(top["ema"]).pop("_init_kwargs"), "does not record"),
    "positional arguments": (lambda top: state(top["ema"]).update(_init_args=(32,)), "does not record"),
    "no resolution": (lambda top: state(top["ema"])["_init_kwargs"].pop("img_resolution"), "'img_resolution'"),
    "unknown argument": (kwargs(use_flash=True), "unknown constructor argument 'use_flash'"),
    "unknown argument, escapes": (kwargs(**{"\x1b[2J\n" * 99: 1}), "unknown constructor argument"),
    "NCSN++": (kwargs(embedding_type="fourier"), "'embedding_type' must be 'positional'"),
    "ADM": (kwargs(model_type="DhariwalUNet"), "'model_type' must be 'SongUNet'"),
    "filter": (kwargs(resample_filter=[1, 3, 3, 1]), r"'resample_filter' must be \[1, 1\]"),
    "filter laughs": (kwargs(resample_filter=laughs()), "'resample_filter' must be"),
    "a billion channels": (kwargs(model_channels=10**9), "'model_channels' must be an integer from 4 to 1024"),
    "a billion blocks": (kwargs(num_blocks=10**9), "'blocks' must be an integer"),
    "a billion levels": (kwargs(channel_mult=[1] * 100), "'channel_mult' must be a list of at most 8"),
    "levels laugh": (kwargs(channel_mult=laughs()), "'channel_mult' must be"),
    "resolution is text": (kwargs(img_resolution="4"), "'resolution' must be an integer"),
    "resolution is a tensor": (kwargs(img_resolution=tensor(torch.zeros(2))), "'resolution' must be an integer"),
    "another resolution": (kwargs(img_resolution=8), "lacks tensor"),
    "wider": (kwargs(model_channels=8), "needs torch.float32"),
    "sigma_data NaN": (kwargs(sigma_data=float("nan")), "'sigma_data'"),
    "sigma_data laughs": (kwargs(sigma_data=laughs()), "'sigma_data'"),
    "dropout is text": (kwargs(dropout="0"), "'dropout'"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_networks_that_are_not_what_they_say(tmp_path: Path, name: str) -> None:
    change, message = LAYERS[name]
    refuse(tmp_path, changed(change), message)


def test_a_list_at_the_top(tmp_path: Path) -> None:
    refuse(tmp_path, dump([network()[1]]), "does not hold a dictionary at the top")


# --- damaged files ---


@pytest.mark.parametrize("tenth", range(10))
def test_truncated(tmp_path: Path, tenth: int) -> None:
    data = honest()[: len(honest()) * tenth // 10]
    refuse(tmp_path, data, "truncated or damaged" if data else "has 0 bytes")


def test_truncated_by_one_byte(tmp_path: Path) -> None:
    refuse(tmp_path, honest()[:-1], "truncated or damaged")


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


def start(code: bytes) -> bytes:
    return pickle.PROTO + b"\x04" + code


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
def test_streams(tmp_path: Path, name: str) -> None:
    data, message = STREAMS[name]
    refuse(tmp_path, data, message)


def test_deep_layers_are_freed_without_a_crash(tmp_path: Path) -> None:
    """15,000 layers inside each other, written by repeating the opcodes before and after the innermost one."""
    before, after = dump(layer("X", _modules={"a": Raw(b"?")}), 3)[2:-1].split(b"?")
    before, after = (re.sub(rb"q.", b"", part) for part in (before, after))  # without memo
    refuse(tmp_path, start(b"}X\x03\0\0\0ema" + before * 15_000 + b"N" + after * 15_000 + b"s."), "class X; only")


# --- the file itself, its hash, the output ---


def test_hashes(tmp_path: Path) -> None:
    actual = hashlib.sha256(honest()).hexdigest()
    refuse(
        tmp_path, honest(), f"no SHA-256 .*this file's is {actual}: .*--sha256, or pass --allow-unverified", sha256=None
    )
    refuse(tmp_path, honest(), f"has SHA-256 {actual}, not {'0' * 64}", sha256="0" * 64)
    refuse(tmp_path, honest(), "has SHA-256", sha256="0" * 64, allow_unverified=True)
    refuse(tmp_path, honest(), "takes 64 hexadecimal digits", sha256=actual[:-1])
    refuse(tmp_path, honest(), "takes 64 hexadecimal digits", sha256=actual + "\n")


def test_the_hash_is_checked_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "read_pickle", lambda data: pytest.fail("parsed"))
    refuse(tmp_path, dump(GADGETS["os.system"]), "has SHA-256", sha256="0" * 64)


def test_things_that_are_not_regular_files(tmp_path: Path) -> None:
    out = tmp_path / "out" / "net.safetensors"
    (tmp_path / "net.pkl").write_bytes(honest())
    (tmp_path / "link.pkl").symlink_to("net.pkl")
    (tmp_path / "dangling.pkl").symlink_to("nowhere")
    (tmp_path / "folder.pkl").mkdir()
    os.mkfifo(tmp_path / "pipe.pkl")
    with (tmp_path / "huge.pkl").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    unverified = {"sha256": None, "allow_unverified": True}
    refuse_file(tmp_path / "link.pkl", out, "link.pkl: is a symbolic link", **unverified)
    refuse_file(tmp_path / "dangling.pkl", out, "is a symbolic link", **unverified)
    refuse_file(tmp_path / "folder.pkl", out, "Is a directory", **unverified)
    refuse_file(tmp_path / "pipe.pkl", out, "is not a regular file", **unverified)
    refuse_file(tmp_path / "huge.pkl", out, "has 1,099,511,627,776 bytes", **unverified)
    refuse_file(tmp_path / "missing.pkl", out, "cannot read the file", **unverified)
    refuse_file(Path("/dev/zero"), out, "is not a regular file", **unverified)


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("")
    refuse_file(tmp_path / "net.pkl", tmp_path / "folder.safetensors" / "x.pt", "ends in .safetensors", sha256=None)
    (tmp_path / "net.pkl").write_bytes(honest())
    digest = hashlib.sha256(honest()).hexdigest()
    for out in (tmp_path / "folder.safetensors", tmp_path / "file" / "net.safetensors"):
        with pytest.raises(Error, match=r"must be a file name|cannot write the network"):
            import_edm(tmp_path / "net.pkl", out, digest)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["file", "folder.safetensors", "net.pkl"]


def test_a_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "save_file", full)
    refuse(tmp_path, honest(), "cannot write the network .*No space left")


# --- memory ---

LIMITED = """
import resource, sys
from pathlib import Path
from s4s.errors import Error
from s4s.models.convert import import_edm
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = used()
import_edm("honest.pkl", "honest.safetensors", None, allow_unverified=True)
print(used() - before)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        import_edm(path, "out/net.safetensors", None, allow_unverified=True)
        print("accepted")
    except Error as error:
        print("refused")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory through /proc")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """An honest import takes a few times the file. Under a hard limit of 300 MiB more than the interpreter has, every
    bomb is refused for what it is, without a MemoryError."""
    wide = UNetConfig(2, channels=1, model_channels=128, channel_mult=(2,), blocks=1, attention=())
    size = (tmp_path / "honest.pkl").write_bytes(dump(network(wide)[1]))
    bombs = [
        *(STREAMS[name][0] for name in ("4 GiB of bytes", "4 GiB of text", "2^63 bytes", "a bytearray", "memo at 2^32",
                                        "memo, sparse", "many lists", "many memos", "much text")),
        *(with_storage(NESTED[name][0]) for name in ("a trillion values", "two billion values", "huge header")),
        *(changed(LAYERS[name][0]) for name in ("filter laughs", "levels laugh", "2^40 layers", "a billion channels",
                                                "a billion levels", "expanded", "layers in a circle")),
    ]  # fmt: skip
    paths = [tmp_path / f"{i}.pkl" for i in range(len(bombs))]
    for path, data in zip(paths, bombs, strict=True):
        path.write_bytes(data)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    grown, *answers = done.stdout.split()
    assert size > 25e6 and 1024 * int(grown) < 3.5 * size + 20e6
    assert answers == ["refused"] * len(bombs)
    assert not (tmp_path / "out").exists()

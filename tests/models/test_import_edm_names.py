"""Network pickles that call foreign names, or the allowed ones with odd arguments; nothing of it is run."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import CANARY, CODE, TOUCH, Refuse
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
    changed,
    child,
    dump,
    layer,
    state,
    storage_bytes,
    tensor,
)
from nvidia_pickle import refuse as refuse

from s4s.models.convert import import_edm


def test_the_honest_file_is_accepted_and_its_source_code_is_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def plant(top: dict[str, Any]) -> None:
        top["ema"].args[0]["module_src"] = CODE

    (tmp_path / "net.pkl").write_bytes(changed(plant))
    record = import_edm(tmp_path / "net.pkl", tmp_path / "net.safetensors", None, allow_unverified=True)
    assert record["weights"]["tensors"] == 147
    assert not Path(CANARY).exists()


def test_the_payloads_used_here_do_run_under_pythons_own_unpickler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(dump(Call(Name("os", "system"), (TOUCH,))))
    assert Path(CANARY).exists()


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
def test_foreign_names(refuse: Refuse, name: str, place: str) -> None:
    gadget = GADGETS[name]
    places = {
        "top": lambda: changed(lambda top: top.update(augment_pipe=gadget)),
        "inside ema": lambda: changed(lambda top: state(child(top["ema"], "model")).update(extra=gadget)),
        "instead of the file": lambda: dump(gadget),
    }
    refuse(places[place](), "not allowed in this format; nothing was run")


def test_the_foreign_name_is_told(refuse: Refuse) -> None:
    refuse(dump(GADGETS["os.system"]), r"refers to 'os\.system', which")


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
def test_allowed_names_with_odd_arguments(refuse: Refuse, name: str) -> None:
    gadget = ODD[name]
    if name == "module dict, two states":
        gadget = Raw(dump(gadget)[2:-1] + dump({"b": 1})[2:-1] + b"b")
    refuse(dump({"extra": gadget}, 3), "hostile.file: ")

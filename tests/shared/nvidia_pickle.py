"""Writes network pickles in the layout of NVIDIA's files, honest or not. Nothing here runs what it writes."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache, partial
from io import BytesIO
from typing import Any

import pytest
import torch
from hostile import Refuse
from torch import Tensor, nn

from s4s.models.convert import RENAMED
from s4s.models.ddpmpp import UNetConfig
from s4s.models.edm import EDMNetwork

TINY = UNetConfig(4, channels=1, augment_dim=2, model_channels=4, channel_mult=(1, 2), blocks=1, attention=(2,))


@dataclass(eq=False)
class Name:
    """A global, written by name without importing it."""

    module: str
    name: str

    def __deepcopy__(self, memo: Any) -> Name:
        return self


@dataclass(eq=False)
class Call:
    """``function(*args)`` when read by Python, then ``__setstate__(state)`` unless the state is None."""

    function: Any
    args: Any = ()
    opcode: bytes = pickle.REDUCE
    state: Any = None


@dataclass(eq=False)
class Raw:
    """Opcodes as they are."""

    code: bytes


class Writer(pickle._Pickler):
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, Name | Call | Raw):
            return super().save(obj, save_persistent_id)
        if id(obj) in self.memo:
            return self.write(self.get(self.memo[id(obj)][0]))
        if isinstance(obj, Raw):
            self.write(obj.code)
        elif isinstance(obj, Name):
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.save(obj.function)
            self.save(obj.args)
            self.write(obj.opcode)
        self.memoize(obj)
        if isinstance(obj, Call) and obj.state is not None:
            self.save(obj.state)
            self.write(pickle.BUILD)


def dump(value: Any, protocol: int = 4) -> bytes:
    file = BytesIO()
    Writer(file, protocol).dump(value)
    return file.getvalue()


RECONSTRUCT = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
MODULE_DICT = Name("torch.nn.modules.container", "ModuleDict")
EASY_DICT = Name("dnnlib.util", "EasyDict")
PARAMETER = Name("torch._utils", "_rebuild_parameter")
TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
LOAD_BYTES = Name("torch.storage", "_load_from_bytes")
SCALAR = Name("numpy.core.multiarray", "scalar")
DTYPE = Name("numpy", "dtype")


def storage_bytes(value: Tensor) -> bytes:
    """The storage as torch writes it inside a pickle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return value.contiguous().clone().storage().__reduce__()[1][0]


def tensor(value: Tensor, **changes: Any) -> Call:
    """``_rebuild_tensor_v2`` with some arguments changed."""
    args = {
        "storage": Call(LOAD_BYTES, (storage_bytes(value),)),
        "offset": 0,
        "size": tuple(value.shape),
        "stride": value.contiguous().stride(),
        "requires_grad": False,
        "hooks": OrderedDict(),
    }
    return Call(TENSOR, tuple((args | changes).values()))


def parameter(value: Tensor, **changes: Any) -> Call:
    return Call(PARAMETER, (tensor(value, **changes), False, OrderedDict()))


def scalar(value: float) -> Call:
    dtype = Call(DTYPE, ("f8", False, True), state=(3, "<", None, None, None, -1, -1, 0))
    return Call(SCALAR, (dtype, torch.tensor(value, dtype=torch.float64).numpy().tobytes()))


def layer(class_name: str, **state: Any) -> Call:
    meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": class_name, "state": state}
    return Call(RECONSTRUCT, (meta,))


def module_state(module: nn.Module) -> dict[str, Any]:
    """What a module's ``__dict__`` holds in such files, its children as layers."""
    return {
        "training": False,
        "_parameters": {key: parameter(value.detach()) for key, value in module.named_parameters(recurse=False)},
        "_buffers": {key: tensor(value) for key, value in module.named_buffers(recurse=False)},
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": {key: child_layer(child) for key, child in module.named_children()},
        "_init_args": (),
        "_init_kwargs": {},
        "skip_scale": scalar(0.5**0.5),
    }


def child_layer(module: nn.Module) -> Call:
    if isinstance(module, nn.ModuleDict):
        return Call(MODULE_DICT, (), pickle.NEWOBJ, module_state(module))
    return layer(
        {"UNet": "SongUNet", "Block": "UNetBlock"}.get(type(module).__name__, "Conv2d"), **module_state(module)
    )


def network(config: UNetConfig = TINY, seed: int = 0) -> tuple[EDMNetwork, dict[str, Any]]:
    """A network of random weights, and the top of its pickle: dictionaries and ``Call``s that a test may change."""
    net, top = _network(config, seed)
    return net, deepcopy(top)


@cache
def _network(config: UNetConfig, seed: int) -> tuple[EDMNetwork, dict[str, Any]]:
    torch.manual_seed(seed)
    net = EDMNetwork(config).eval().requires_grad_(False)
    kwargs = {theirs: asdict(config)[ours] for theirs, ours in RENAMED.items()}
    kwargs |= {"model_type": "SongUNet", "embedding_type": "positional", "use_fp16": False, "resample_filter": [1, 1]}
    ema = layer("EDMPrecond", **module_state(net) | {"_init_kwargs": kwargs, "sigma_min": 0, "sigma_max": float("inf")})
    easy = Call(EASY_DICT, (), pickle.NEWOBJ)
    return net, {"ema": ema, "loss_fn": layer("EDMLoss", P_mean=-1.2), "dataset_kwargs": easy}


def state(call: Call) -> dict[str, Any]:
    """The state of a layer, to be changed in place."""
    return call.state if call.function is MODULE_DICT else call.args[0]["state"]


def child(call: Call, path: str) -> Call:
    for name in path.split("."):
        call = state(call)["_modules"][name]
    return call


@cache
def honest() -> bytes:
    """An honest file."""
    return dump(network()[1])


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """An otherwise honest file in which ``change`` altered the top dictionary."""
    top = network()[1]
    change(top)
    return dump(top)


def with_storage(data: bytes) -> bytes:
    """A file in which one tensor's nested torch file is ``data``."""
    args = (Call(LOAD_BYTES, (data,)), 0, (16,), (1,), False, OrderedDict())
    weight = Call(PARAMETER, (Call(TENSOR, args), False, OrderedDict()))
    return changed(lambda top: state(child(top["ema"], "model.map_layer0"))["_parameters"].update(bias=weight))


def start(code: bytes) -> bytes:
    """Opcodes after the head of a pickle of protocol 4."""
    return pickle.PROTO + b"\x04" + code


def torch_zip() -> bytes:
    """A storage as a torch file of its own, which is a zip archive."""
    torch.save(torch.zeros(16).untyped_storage(), file := BytesIO())
    return file.getvalue()


@pytest.fixture
def refuse(refused: Refuse) -> Refuse:
    """``refused`` for pickles of networks."""
    return partial(refused, "edm")

"""What the pickled networks of NVIDIA's research code hold, as inert records and plain tensors.

Such a file is one pickle in which every layer is ``_reconstruct_persistent_obj({type, version, module_src, class_name,
state})``; the original function executes ``module_src``, this one drops it. Tensors are nested torch files (the format
from before torch 1.6), read here field by field: torch's own reader would run them, or allocate whatever they ask for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.models.pickles import Buildable, Names, load

PERSISTENCE_VERSION = 6
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001
MAX_LAYERS = 10_000
MAX_NAME = 200


@dataclass
class Layer(Buildable):
    """One persistent object, or a container of them: its class and what its ``__dict__`` held."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        if self.class_name != "ModuleDict" or self.state or type(state) is not dict:
            raise Error("a layer is given a second or a malformed state")
        self.state = state


@dataclass(frozen=True)
class LazyTensor:
    """A strided view of a nested torch file; nothing is read before ``read``."""

    file: memoryview
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """The values, float32, contiguous, in memory of their own.

        Raises:
            Error: the nested file is not one float32 storage that holds the whole view.
        """
        flat = _read_storage(self.file)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if last >= len(flat) or prod(self.shape) > len(flat):
            raise Error(f"a tensor of shape {list(self.shape)} does not fit into its storage of {len(flat)} values")
        strides = [flat.itemsize * step for step in self.stride]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        return torch.from_numpy(np.array(view, order="C"))


def read_pickle(data: memoryview) -> dict[str, Any]:
    """The top-level dictionary of a network pickle; values are plain, ``Layer`` or ``LazyTensor``.

    Raises:
        Error: the file is damaged, or holds anything that such files do not.
    """
    return _top(data, NAMES)


def _top(data: memoryview, names: Names) -> dict[str, Any]:
    value, end = load(data, names)
    if end != len(data):
        raise Error(f"{len(data) - end:,} bytes follow the end of the pickle")
    if type(value) is not dict:
        raise Error("the pickle does not hold a dictionary at the top, as EDM's network files do")
    return value


def read_predictor(data: memoryview) -> dict[str, Any]:
    """The same of a learned solver's pickle (DyWeight, EPD), which also names its samplers and plain layers."""
    return _top(data, {**NAMES, **PREDICTOR_NAMES})


def tensors(root: Layer) -> dict[str, LazyTensor]:
    """All parameters and buffers by their state-dict name."""
    found: dict[str, LazyTensor] = {}
    pending = [("", root)]
    for visited, (prefix, layer) in enumerate(_drain(pending)):
        if visited >= MAX_LAYERS:
            raise Error(f"the network has more than {MAX_LAYERS:,} layers")
        for key, value in (*_members(layer, "_parameters"), *_members(layer, "_buffers")):
            name = _join(prefix, key)
            if type(value) is not LazyTensor or name in found:
                raise Error(f"'{name}' is not a tensor, or there twice")
            found[name] = value
        for key, value in _members(layer, "_modules"):
            if type(value) is not Layer:
                raise Error(f"'{_join(prefix, key)}' is not a layer")
            pending.append((_join(prefix, key), value))
            if len(pending) > MAX_LAYERS:
                raise Error(f"the network has more than {MAX_LAYERS:,} layers")
    return found


def _drain(pending: list[tuple[str, Layer]]) -> Iterator[tuple[str, Layer]]:
    while pending:
        yield pending.pop()


def _members(layer: Layer, kind: str) -> Iterator[tuple[str, Any]]:
    members = layer.state.get(kind, {})
    if type(members) is not dict:
        raise Error(f"'{kind}' of a layer is not a dictionary")
    return ((key, value) for key, value in members.items() if value is not None)


def _join(prefix: str, key: str) -> str:
    name = f"{prefix}.{key}" if prefix else key
    if "." in key or not key.isascii() or not key.isprintable() or len(name) > MAX_NAME:
        raise Error("a layer or tensor has a malformed name")
    return name


def _persistent(args: tuple[Any, ...]) -> Layer:
    keys = {"type", "version", "module_src", "class_name", "state"}
    if len(args) != 1 or type(args[0]) is not dict or args[0].keys() != keys:
        raise Error(f"needs one dictionary with the keys {', '.join(sorted(keys))}")
    meta = args[0]
    if type(meta["version"]) is not int or meta["version"] != PERSISTENCE_VERSION or meta["type"] != "class":
        raise Error(f"not a class of persistence version {PERSISTENCE_VERSION}")
    if type(meta["class_name"]) is not str or not meta["class_name"].isidentifier() or type(meta["state"]) is not dict:
        raise Error("a malformed class name or state")
    return Layer(meta["class_name"][:MAX_NAME], meta["state"])


def _module_dict(args: tuple[Any, ...]) -> Layer:
    _need_none(args)
    return Layer("ModuleDict")


def _empty_dict(args: tuple[Any, ...]) -> dict[str, Any]:
    _need_none(args)
    return {}


def _need_none(args: tuple[Any, ...]) -> None:
    if args:
        raise Error("takes no arguments here")


@dataclass(frozen=True)
class _StorageFile:
    data: memoryview


def _storage_file(args: tuple[Any, ...]) -> _StorageFile:
    if len(args) != 1 or type(args[0]) is not memoryview:
        raise Error("needs one bytes object")
    return _StorageFile(args[0])


def _tensor(args: tuple[Any, ...]) -> LazyTensor:
    """Arguments of torch's ``_rebuild_tensor_v2``: storage, offset, size, stride, requires_grad, hooks, metadata."""
    if len(args) not in (6, 7) or type(args[0]) is not _StorageFile or (len(args) == 7 and args[6] is not None):
        raise Error("malformed arguments")
    storage, offset, shape, stride, requires_grad, hooks = args[:6]
    _check_hooks(requires_grad, hooks)
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride) or len(shape) > 4:
        raise Error("malformed shape or stride")
    if not all(type(n) is int and 0 <= n < 1 << 31 for n in (offset, *shape, *stride)) or 0 in shape:
        raise Error("a shape, stride or offset is not a sensible number")
    return LazyTensor(storage.data, offset, shape, stride)


def _parameter(args: tuple[Any, ...]) -> LazyTensor:
    if len(args) != 3 or type(args[0]) is not LazyTensor:
        raise Error("malformed arguments")
    _check_hooks(*args[1:])
    return args[0]


def _check_hooks(requires_grad: Any, hooks: Any) -> None:
    if type(requires_grad) is not bool or type(hooks) is not dict or hooks:
        raise Error("malformed arguments")


@dataclass
class _DType(Buildable):
    code: str

    def build(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags) of a plain little-endian number
        if type(state) is not tuple or len(state) != 8 or type(state[1]) is not str or state[1] not in "<|":
            raise Error("not a plain little-endian number type")
        if any(part is not None for part in state[2:5]) or state[0] != 3 or state[5:] != (-1, -1, 0):
            raise Error("not a plain little-endian number type")


SCALARS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}


def _dtype(args: tuple[Any, ...]) -> _DType:
    if len(args) != 3 or type(args[0]) is not str or args[0] not in SCALARS or args[1:] != (False, True):
        raise Error(f"only the number types {', '.join(SCALARS)} are allowed")
    return _DType(args[0])


def _scalar(args: tuple[Any, ...]) -> float | int | bool:
    if len(args) != 2 or type(args[0]) is not _DType or type(args[1]) is not memoryview:
        raise Error("malformed arguments")
    layout = SCALARS[args[0].code]
    if len(args[1]) != struct.calcsize(layout):
        raise Error("a number of the wrong length")
    value: float | int | bool = struct.unpack(layout, args[1])[0]
    return value


NAMES: Names = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("collections", "OrderedDict"): _empty_dict,
    ("dnnlib.util", "EasyDict"): _empty_dict,
    ("torch.nn.modules.container", "ModuleDict"): _module_dict,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage_file,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "dtype"): _dtype,
}


def _read_storage(file: memoryview) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A torch file of the old format with one float32 storage: five pickles, then a count, then the values."""

    def part(start: int, **options: Any) -> tuple[Any, int]:
        return load(file, options.pop("names", {}), start=start, max_opcodes=100, **options)

    magic, end = part(0)
    protocol, end = part(end)
    machine, end = part(end)
    if (magic, protocol) != (TORCH_MAGIC, TORCH_PROTOCOL) or type(machine) is not dict:
        raise Error("a tensor's data is not a torch file of the old format")
    if machine.get("little_endian") is not True:
        raise Error("a tensor's data is not little-endian")
    storage, end = part(end, names=STORAGES, persistent=lambda value: value)
    keys, end = part(end)
    kind, key, location, count = _storage_id(storage)
    if kind != "float32":
        raise Error(f"a tensor is stored as {kind}; published EDM weights are float32")
    if type(keys) is not list or keys != [key] or type(location) is not str:
        raise Error("a tensor's data lists another storage than its own")
    if len(file) - end != 8 + 4 * count or struct.unpack_from("<q", file, end)[0] != count:
        raise Error(f"a tensor's storage should hold {count:,} values, and does not")
    return np.frombuffer(file, "<f4", offset=end + 8)


def _storage_id(value: Any) -> tuple[str, str, Any, int]:
    """``("storage", type, key, location, count, view)``; the type comes out as the name of a dtype."""
    if type(value) is not tuple or len(value) != 6 or value[0] != "storage" or value[5] is not None:
        raise Error("a tensor's data holds something else than one storage")
    _, kind, key, location, count, _ = value
    name = next((name for (_, name) in STORAGES if getattr(kind, "text", None) == f"torch.{name}"), None)
    if name is None or type(key) is not str or type(count) is not int or not 0 < count < 1 << 31:
        raise Error("a tensor's storage is malformed")
    return DTYPES[name], key, location, count


def _no_call(args: tuple[Any, ...]) -> Any:
    raise Error("is not callable here")


DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
PREDICTOR_NAMES: Names = {
    **{("solvers", f"{name}_sampler"): _no_call for name in ("dyweight", "heun", "euler", "ipndm", "dpm", "dpmpp")},
    **{("torch.nn.modules.activation", name): _module_dict for name in ("Sigmoid", "Softmax")},
}
STORAGES: Names = {("torch", name): _no_call for name in DTYPES}

"""Reading a torch checkpoint as data: which names it may refer to is checked before torch's restricted reader starts.

That reader (``weights_only``) runs no code, but its own list of harmless names has some, such as ``bytearray``, that
make any amount of memory from a few bytes. Here the list is exactly what checkpoints of networks are made of.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch

from s4s.errors import Error

LIGHTNING = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
NAMES = frozenset({
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size",
    "torch.device", "builtins.set", "__builtin__.set", LIGHTNING, *(f"torch.{kind}Storage" for kind in STORAGES),
})  # fmt: skip
MAX_PICKLE_BYTES = 64 << 20
MAX_OPCODES = 2_000_000
LEGACY_PICKLES = 5  # at the start of a file from before torch 1.6: magic number, version, machine, object, storage keys


class _Inert:
    """Stands where old checkpoints name a Lightning callback as a dictionary key."""


def load(path: Path, file: IO[bytes], size: int) -> Any:
    """What a checkpoint holds: tensors on the CPU and plain data.

    Args:
        path: for messages.
        file: seekable, at any position.
        size: of the file in bytes.

    Raises:
        Error: damaged, compressed, or a reference to anything that is not on the list; nothing was run.
    """
    try:
        check(path, file, size)
        file.seek(0)
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([(_Inert, LIGHTNING)]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Error:
        raise
    except Exception as error:  # a damaged or hostile file makes the readers raise anything
        raise Error(f"{path}: refused, a damaged or truncated file of tensors ({error!r:.200})") from error


def check(path: Path, file: IO[bytes], size: int) -> None:
    """Refuse a checkpoint that refers to anything that is not on the list; runs nothing, leaves ``file`` anywhere."""
    for stream in _pickles(path, file, size):
        _check_names(path, stream)


def state_dict(path: Path, file: IO[bytes], size: int) -> Mapping[str, Any]:
    """The entry 'state_dict' of a CompVis checkpoint, by name."""
    top = load(path, file, size)
    state = top.get("state_dict") if isinstance(top, dict) else None
    if not isinstance(state, dict) or not all(type(key) is str for key in state):
        raise Error(f"{path}: holds no 'state_dict', as CompVis checkpoints do")
    return state


def _pickles(path: Path, file: IO[bytes], size: int) -> Iterator[IO[bytes]]:
    """Every pickle of a checkpoint, at its start."""
    file.seek(0)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        yield from (file for _ in range(LEGACY_PICKLES))
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # torch stores its files uncompressed: anything else could unfold to any size in memory
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise Error(f"{path}: refused, its members are compressed or overlap; torch never writes such a checkpoint")
        for member in members:
            if member.filename.lower().endswith(".pkl"):
                if member.file_size > MAX_PICKLE_BYTES:
                    raise Error(f"{path}: refused, a pickle of {member.file_size:,} bytes; networks need a few million")
                with archive.open(member) as stream:
                    yield stream


def _check_names(path: Path, stream: IO[bytes]) -> None:
    """Look at one pickle without running it; torch's reader knows no other opcode for a name than GLOBAL."""
    count = 0
    for count, (opcode, argument, _) in enumerate(islice(pickletools.genops(stream), MAX_OPCODES + 1), 1):  # noqa: B007
        name = str(argument).replace(" ", ".", 1)
        if opcode.name == "GLOBAL" and name not in NAMES:
            raise Error(f"{path}: refused, refers to {name[:100]!a}, which is not allowed; nothing was run")
    if count > MAX_OPCODES:
        raise Error(f"{path}: refused, a pickle of more than {MAX_OPCODES:,} opcodes")

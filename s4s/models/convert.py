"""``s4s import edm``: a published pickle becomes safetensors and JSON, once; nothing in the pickle is ever executed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.models.ddpmpp import UNetConfig
from s4s.models.edm import EDMNetwork, check_layout, dump_record, skeleton
from s4s.models.nvidia import Layer, LazyTensor, read_pickle, tensors
from s4s.models.source import check_hash, check_request, opened, write

MAX_PICKLE_BYTES = 1 << 30

# Constructor arguments in the file -> ours; those with one supported value; those without effect when sampling.
RENAMED = {
    "img_resolution": "resolution",
    "img_channels": "channels",
    "label_dim": "label_dim",
    "augment_dim": "augment_dim",
    "model_channels": "model_channels",
    "channel_mult": "channel_mult",
    "num_blocks": "blocks",
    "attn_resolutions": "attention",
    "dropout": "dropout",
}
FIXED = {
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "channel_mult_emb": 4,
    "resample_filter": [1, 1],
}
IGNORED = {"use_fp16", "sigma_min", "sigma_max", "label_dropout"}


def import_edm(
    pkl: Path | str,
    out: Path | str,
    sha256: str | None,
    *,
    allow_unverified: bool = False,
    licence: str | None = None,
) -> dict[str, Any]:
    """Convert a network pickle of EDM (its ``ema`` entry) to ``out`` and the ``.json`` file beside it.

    Args:
        pkl: the downloaded file; a regular file of at most 1 GiB.
        out: ``NAME.safetensors``; ``NAME.json`` is written too. Both appear whole, or neither.
        sha256: what the file's SHA-256 must be, checked before anything is parsed.
        allow_unverified: go on without ``sha256``; the file is still only ever read as data.
        licence: terms of the weights, recorded beside them.

    Returns:
        The record written to ``NAME.json``: configuration, hashes of both files, numbers of tensors and parameters.

    Raises:
        Error: wrong or missing hash; not a DDPM++ network of EDM; anything unknown, missing or not finite in it.
    """
    pkl, out = Path(pkl), Path(out)
    check_request(out, sha256)
    data = _read_file(pkl)
    actual = hashlib.sha256(data).hexdigest()
    check_hash(pkl, actual, sha256, allow_unverified)
    try:
        net, state = _read_network(memoryview(data))
    except Error as error:
        raise Error(f"{pkl}: {error}") from error
    del data
    source = {"file": pkl.name, "sha256": actual, "entry": "ema", "class": "EDMPrecond", "licence": licence}
    parameters = sum(value.numel() for value in net.parameters())
    return write(out, state, parameters, lambda about: dump_record(net, about, source))


def _read_file(path: Path) -> bytearray:
    with opened(path, MAX_PICKLE_BYTES) as (file, size):
        data = bytearray(size)
        if file.readinto(data) != size or file.read(1):  # type: ignore[attr-defined]
            raise Error(f"{path}: changed while it was read; try again")
        return data


def _read_network(data: memoryview) -> tuple[EDMNetwork, dict[str, Tensor]]:
    top = read_pickle(data)
    root = top.get("ema")
    if type(root) is not Layer:
        raise Error("holds no network under the key 'ema'")
    if root.class_name != "EDMPrecond":
        raise Error(f"holds a network of class {root.class_name[:60]}; only EDMPrecond (not the baselines) is read")
    body = root.state.get("_modules")
    if type(body) is not dict or type(body.get("model")) is not Layer or body["model"].class_name != "SongUNet":
        raise Error("the network inside EDMPrecond is not a SongUNet; only DDPM++ networks are supported")
    net = skeleton(*_config(root.state.get("_init_args"), root.state.get("_init_kwargs")))
    lazy = tensors(root)
    check_layout(net, {key: (torch.float32, value.shape) for key, value in lazy.items()})
    return net, {key: _read_tensor(key, value) for key, value in lazy.items()}


def _config(args: Any, kwargs: Any) -> tuple[UNetConfig, float]:
    """Our configuration from the constructor's arguments as the file records them."""
    if args != () or type(kwargs) is not dict:
        raise Error("the network does not record its constructor's arguments by name")
    unknown = kwargs.keys() - RENAMED.keys() - FIXED.keys() - IGNORED - {"sigma_data"}
    if unknown:
        raise Error(f"unknown constructor argument {min(unknown)[:60]!a}")
    missing = {"img_resolution", "img_channels", "model_type"} - kwargs.keys()
    if missing:
        raise Error(f"the network does not record its constructor argument '{min(missing)}'")
    for key, value in FIXED.items():
        if kwargs.get(key, value) != value:
            raise Error(f"constructor argument '{key}' must be {value!r}: only DDPM++ networks are supported")
    ours = {RENAMED[key]: value for key, value in kwargs.items() if key in RENAMED}
    return UNetConfig(**ours), kwargs.get("sigma_data", 0.5)


def _read_tensor(name: str, lazy: LazyTensor) -> Tensor:
    try:
        value = lazy.read()
    except Error as error:
        raise Error(f"tensor '{name}': {error}") from error
    if not value.isfinite().all():
        raise Error(f"tensor '{name}' holds NaN or infinity")
    if name.endswith("resample_filter") and not (value == 0.25).all():
        raise Error(f"tensor '{name}' is not the filter [1, 1]; only DDPM++ networks are supported")
    return value

"""Forward passes, counted without running them: parameters, FLOPs and memory of a benchmark's networks.

Networks are traced without memory behind their tensors, so the counts are those of the real code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from s4s.errors import Error, extra

Config = Mapping[str, Any]
Make = Callable[[Config, Path], "list[Pass]"]


@dataclass(frozen=True)
class Pass:
    """One forward pass of one sample through one network.

    Args:
        parameters: of the network.
        flops: two for each multiply-add.
        live: most bytes of activations alive at once, float32.
        shape: of the result, without the batch.
    """

    parameters: int
    flops: int
    live: int
    shape: tuple[int, ...]


class _Live(TorchDispatchMode):
    """Follows the bytes of all tensors made within, views not counted, and their maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.held = {key: held for key, held in self.held.items() if not held[0].expired()}
        given = _storages((args, kwargs))
        new = {key: storage for key, storage in _storages(made).items() if key not in given}
        self.held |= {key: (StorageWeakRef(storage), storage.nbytes()) for key, storage in new.items()}
        self.most = max(self.most, sum(size for _, size in self.held.values()))
        return made


def _storages(values: Any) -> dict[int, Any]:
    found = (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))
    return {storage._cdata: storage for storage in found}


class _Fused(TorchFunctionMode):
    """Attention as one operation that stores its result only, as on a GPU; counts its two products."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        self.flops += 2 * query.numel() * key.shape[-2] + 2 * query.shape[:-1].numel() * value.shape[-2:].numel()
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def trace(net: nn.Module, call: Callable[[], Any]) -> Pass:
    """Count what ``call``, one forward pass of ``net`` for one sample on the meta device, does."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _Live() as live, _Fused() as attention:
        out = call()
    count = sum(parameter.numel() for parameter in net.parameters())
    return Pass(count, flops.get_total_flops() + attention.flops, live.most, tuple(out.shape[1:]))


def _meta(*shape: int) -> Tensor:
    return torch.empty(1, *shape, device="meta")


def _edm(config: Config, imported: Path) -> list[Pass]:
    from s4s.models import edm

    known = {"cifar10": edm.CIFAR10, "ffhq": edm.FFHQ, "afhqv2": edm.AFHQV2}
    data = config.get("score", {}).get("data")
    if imported.with_suffix(".json").exists():
        sizes = edm.read_config(imported.with_suffix(".json"))
    elif data in known:
        sizes = known[data]
    else:
        return []
    net = edm.skeleton(sizes)
    x = _meta(sizes.channels, sizes.resolution, sizes.resolution)
    return [trace(net, lambda: net(x, 1.0))]


def _ldm(config: Config, imported: Path) -> list[Pass]:
    from s4s.models import ldm

    spec = config["model"]
    sizes = ldm.KINDS.get(spec["kind"]) or ldm.LDMConfig.from_dict(vars(ldm.LDMConfig()) | spec.get("sizes", {}))
    nets: Any = ldm.networks(sizes)
    z = _meta(ldm.LATENT_CHANNELS, sizes.size, sizes.size)
    given = {"encoder_hidden_states": _meta(1, sizes.context)} if sizes.classes else {}
    level = torch.ones(1, device="meta")
    return [
        trace(nets["unet"], lambda: nets["unet"](z, level, **given).sample),
        trace(nets["vae"], lambda: nets["vae"].decode(z).sample),
    ]


STABLE = {
    "unet": {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768},
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
}  # Stable Diffusion 1.x: what its repository's configurations add to diffusers' defaults


def _folder(config: Config, folder: Path) -> list[Pass]:
    """Networks of a folder in the diffusers layout, or Stable Diffusion's before it is there."""
    from s4s.models import hub

    parts = ("unet", "transformer", "vae", "vqvae")
    found = {p: hub.read_json(path) for p in parts if (path := folder / p / "config.json").exists()}
    if not found and (flat := folder / "config.json").exists():
        found = {"unet": hub.read_json(flat)}
    if not found and config["model"]["type"] == "stable-diffusion":
        found = STABLE
    with extra("diffusers"):
        import diffusers

    passes: list[Pass] = []
    for name, settings in found.items():
        try:
            with torch.device("meta"):
                net: Any = getattr(diffusers, settings["_class_name"]).from_config(settings)
            given = config["model"].get("sample_size")
            passes.append(trace(net, lambda net=net, given=given: _forward(net, passes, given)))  # type: ignore[misc]
        except Error:
            raise
        except Exception as error:  # of a network that is not supported: whatever its library raises
            raise Error(f"{folder}: its {name} cannot be traced ({str(error)[:200]!r})") from error
    return passes


def _forward(net: Any, passes: list[Pass], given: Any) -> Any:
    from s4s.models import hub

    sizes, level = net.config, torch.ones(1, device="meta")
    if hasattr(net, "decode"):
        return net.decode(_meta(*passes[0].shape)).sample
    x = _meta(*hub.shape(sizes.sample_size, sizes.in_channels, given, Path(type(net).__name__)))
    if type(net).__name__ == "UNet2DConditionModel":
        return net(x, level, encoder_hidden_states=_meta(77, sizes.cross_attention_dim)).sample
    label = torch.zeros(1, dtype=torch.long, device="meta")
    labelled = getattr(sizes, "num_class_embeds", None) or getattr(sizes, "num_embeds_ada_norm", None)
    return net(x, level, **({"class_labels": label} if labelled else {})).sample[:, : x.shape[1]]


def _digits(config: Config, trained: Path) -> list[Pass]:
    from s4s.stages.skeleton import digits

    with torch.device("meta"):
        net = digits(config)
    x, level, decoder = _meta(*net.shape), torch.ones(1, device="meta"), net.autoencoder
    labels = torch.zeros(1, dtype=torch.long, device="meta") if net.classes else None
    found = [trace(net, lambda: net(x, level, labels))]
    return found if decoder is None else [*found, trace(decoder, lambda: decoder.decode(x))]


PASSES: dict[str, Make] = {
    "digits": _digits,
    "edm": _edm,
    "ldm": _ldm,
    "stable-diffusion": _folder,
    "diffusers": _folder,
}


def passes(config: Config, weights: Path) -> list[Pass]:
    """The network's forward pass and, for latents, the decoder's; empty while its sizes are not known.

    Args:
        config: a loaded config.
        weights: imported file, or folder in the diffusers layout; need not exist.
    """
    return PASSES[config["model"]["type"]](config, weights)

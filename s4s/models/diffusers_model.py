"""Any diffusers model of your own: a folder saved by ``save_pretrained``, or a repository of the same layout.

Supported are ``UNet2DModel`` and ``DiTTransformer2DModel``, unconditional or class-conditional, in pixels or in the
latents of an ``AutoencoderKL`` or ``VQModel``, with a discrete variance-preserving schedule or a flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, choose
from s4s.models import hub
from s4s.models.model import (
    DTYPES,
    RUN,
    Guidance,
    Model,
    Network,
    classes,
    freeze,
    identity,
    make_denoiser,
    running,
    settings,
    unconditional,
)

DEFAULTS = {
    "path": None,
    "id": None,
    "revision": None,
    "guidance": None,
    "null_class": None,
    "classes": "uniform",
    "class_seed": 0,
    **RUN,
    "t_min": None,
    "t_max": None,
    "licence": None,
}
NETWORKS = {"UNet2DModel": "unet", "DiTTransformer2DModel": "transformer"}
DECODERS = {"AutoencoderKL": "vae", "VQModel": "vqvae"}
PARTS = (*NETWORKS.values(), *DECODERS.values(), "scheduler")  # sub-folders of a repository that may be needed


@dataclass(frozen=True)
class _Pipeline:
    """What ``model_index.json`` names: class of the network, of the decoder if any, of the scheduler."""

    root: Path
    network: str
    decoder: str | None
    decoder_part: str
    scheduler: str

    @property
    def parts(self) -> list[str]:
        return [NETWORKS[self.network], *([self.decoder_part] if self.decoder else []), "scheduler"]


def load(spec: Mapping[str, Any], weights: Path | None, *, device: str = "cpu", offline: bool = False) -> Model:
    """A pipeline folder as a ``Model``: ``path`` (or ``weights``) is a local folder, ``id`` a hub repository."""
    import diffusers

    chosen = settings(spec, DEFAULTS)
    pipeline = _pipeline(_root(chosen, weights, offline))
    dtype = DTYPES[chosen["dtype"]]
    net = hub.component(getattr(diffusers, pipeline.network), pipeline.root / NETWORKS[pipeline.network], dtype)
    scheduler = hub.read_json(pipeline.root / "scheduler" / "scheduler_config.json")
    process, prediction, scale = hub.schedule(pipeline.scheduler, scheduler, chosen["t_min"], chosen["t_max"])
    freeze(net, device, chosen["channels_last"])
    decode: Callable[[Tensor], Tensor] = identity
    if pipeline.decoder:
        vae = hub.component(getattr(diffusers, pipeline.decoder), pipeline.root / pipeline.decoder_part, dtype)
        decode = hub.decoder(freeze(vae, device), dtype)
    numbers, guidance = _classes(net, chosen)
    network = running(_network(net, scale, conditional=bool(numbers)), chosen)
    plan = classes(chosen["classes"], numbers, chosen["class_seed"]) if numbers else unconditional
    return Model(
        process,
        _shape(net),
        make_denoiser(process, network, prediction, dtype=dtype, conditional=bool(numbers), guidance=guidance),
        decode,
        plan,
        _facts(chosen, pipeline, prediction, len(numbers)),
    )


def _root(chosen: Mapping[str, Any], weights: Path | None, offline: bool) -> Path:
    if weights is not None or chosen["path"] is not None:
        return Path(weights if weights is not None else chosen["path"]).expanduser()
    if chosen["id"] is None:
        raise Error("a diffusers model needs 'path', a folder saved by save_pretrained, or 'id', a hub repository")
    return hub.folder(chosen["id"], chosen["revision"], PARTS, offline=offline)


def _pipeline(root: Path) -> _Pipeline:
    """Which components a folder has; refused by name when we have no use for one."""
    index = hub.read_json(root / "model_index.json")
    named: dict[str, str] = {}
    for part, value in index.items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):
            named[part] = value[1]
    kind = index.get("_class_name")
    if "text_encoder" in named or "tokenizer" in named:
        raise Error(f"{root}: {kind} takes text; only Stable Diffusion 1.x does here: use type: stable-diffusion")
    network = next((named[part] for part in ("unet", "transformer") if part in named), None)
    if network not in NETWORKS:
        raise choose(f"network of {root}", network, NETWORKS)
    part = next((part for part in ("vae", "vqvae") if part in named), "")
    if part and named[part] not in DECODERS:
        raise choose(f"decoder of {root}", named[part], DECODERS)
    if "scheduler" not in named:
        raise Error(f"{root}: model_index.json names no scheduler, which would say what the network predicts")
    return _Pipeline(root, network, named.get(part), part, named["scheduler"])


def _network(net: Any, scale: float, *, conditional: bool) -> Network:
    """One calling convention. A network that also predicts a variance has twice the channels; the mean comes first."""

    def network(x: Tensor, model_time: Tensor, labels: Tensor | None) -> Tensor:
        given = {"class_labels": labels} if conditional else {}
        out: Tensor = net(x, scale * model_time, **given).sample
        return out[:, : x.shape[1]]

    return network


def _classes(net: Any, chosen: Mapping[str, Any]) -> tuple[list[int], Guidance | None]:
    """Classes to sample, and guidance towards them."""
    config = net.config
    if type(net).__name__ == "DiTTransformer2DModel":  # its embedding has one more row, for "no class"
        count, null = config.num_embeds_ada_norm, config.num_embeds_ada_norm
    else:
        count, null = config.num_class_embeds or 0, chosen["null_class"]
        if config.time_embedding_type != "positional" or config.class_embed_type is not None:
            raise Error("only positional time embeddings and class numbers are supported for UNet2DModel")
    scale = chosen["guidance"]
    if scale is None:
        return [c for c in range(count) if c != null], None
    if null is None or not 0 <= null <= count:
        raise Error("guidance needs a class-conditional model and 'null_class', the class number that means 'none'")
    return [c for c in range(count) if c != null], Guidance(float(scale), torch.tensor([null]))


def _shape(net: Any) -> tuple[int, ...]:
    size = net.config.sample_size
    if size is None:
        raise Error("the network's configuration does not say its sample_size")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return (net.config.in_channels, height, width)


def _facts(chosen: Mapping[str, Any], pipeline: _Pipeline, prediction: str, count: int) -> dict[str, Any]:
    plan = {"plan": chosen["classes"], "seed": chosen["class_seed"], "count": count}
    return {
        "type": "diffusers",
        "id": chosen["id"],
        "path": str(pipeline.root),
        "revision": hub.revision_of(pipeline.root) or chosen["revision"],
        "files_sha256": hub.hashes(pipeline.root, pipeline.parts),
        "network": pipeline.network,
        "scheduler": pipeline.scheduler,
        "prediction": prediction,
        "ema": "whatever the folder holds",
        **{key: chosen[key] for key in RUN},
        "guidance": chosen["guidance"],
        "classes": plan if count else None,
        "licence": chosen["licence"],
    }

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

from s4s.errors import Error, choose, extra
from s4s.files import at_home
from s4s.models import hub, stable_diffusion
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
    require_classes,
    running,
    settings,
    unconditional,
)
from s4s.models.scheduler import schedule
from s4s.process import Process
from s4s.values import without_variance

DEFAULTS = {
    "path": None,
    "id": None,
    "revision": None,
    "variant": None,
    "sample_size": None,
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
UNSHIFTED = ("DiTPipeline", "LDMPipeline")  # decode without the shift_factor of their autoencoder
PARTS = (*NETWORKS.values(), *DECODERS.values(), "scheduler")  # sub-folders of a repository that may be needed


@dataclass(frozen=True)
class _Pipeline:
    """What ``model_index.json`` names: class of the pipeline, the network, the decoder if any, the scheduler."""

    root: Path
    kind: str
    network: str
    decoder: str | None
    decoder_part: str
    scheduler: str

    @property
    def parts(self) -> list[str]:
        return [NETWORKS[self.network], *([self.decoder_part] if self.decoder else []), "scheduler"]

    def place(self, part: str) -> Path:
        """Where a component's files are."""
        return hub.place(self.root, part)

    def process(self, chosen: Mapping[str, Any]) -> tuple[Process, str, float]:
        """As ``schedule`` has it."""
        config = hub.read_json(self.place("scheduler") / "scheduler_config.json")
        return schedule(self.scheduler, config, chosen["t_min"], chosen["t_max"])


def load(spec: Mapping[str, Any], weights: Path | None, *, device: str = "cpu", offline: bool = False) -> Model:
    """A pipeline folder as a ``Model``: ``path`` (or ``weights``) is a local folder, ``id`` a hub repository."""
    with extra("diffusers"):
        import diffusers

    chosen = settings(spec, DEFAULTS)
    pipeline = _pipeline(_root(chosen, weights, offline))
    dtype, path = DTYPES[chosen["dtype"]], pipeline.place(NETWORKS[pipeline.network])
    hub.check_weights(pipeline.root, pipeline.parts, chosen["variant"])
    process, prediction, scale = pipeline.process(chosen)
    shape = _shape(pipeline, chosen["sample_size"])
    net = hub.component(getattr(diffusers, pipeline.network), path, dtype, chosen["variant"])
    freeze(net, device, chosen["channels_last"])
    decode: Callable[[Tensor], Tensor] = identity
    if pipeline.decoder:
        vae = hub.component(
            getattr(diffusers, pipeline.decoder), pipeline.place(pipeline.decoder_part), dtype, chosen["variant"]
        )
        decode = hub.decoder(freeze(vae, device), dtype, shifted=pipeline.kind not in UNSHIFTED)
    numbers, guidance = _classes(pipeline.network, net.config, chosen, spec)
    network = running(_network(net, scale, conditional=bool(numbers)), chosen)
    plan = classes(chosen["classes"], numbers, chosen["class_seed"]) if numbers else unconditional
    return Model(
        process,
        shape,
        make_denoiser(process, network, prediction, dtype=dtype, conditional=bool(numbers), guidance=guidance),
        decode,
        plan,
        _facts(chosen, pipeline, prediction, len(numbers)),
    )


def check(spec: Mapping[str, Any], root: Path) -> Process:
    """The process of a folder; raises what ``load`` would raise, but for what its weights hold."""
    with extra("diffusers"):
        import diffusers

    chosen = settings(spec, DEFAULTS)
    pipeline = _pipeline(root)
    hub.check_weights(root, pipeline.parts, chosen["variant"])
    process, _, _ = pipeline.process(chosen)
    _shape(pipeline, chosen["sample_size"])
    sizes = hub.sizes(getattr(diffusers, pipeline.network), pipeline.place(NETWORKS[pipeline.network]))
    _classes(pipeline.network, sizes, chosen, spec)
    return process


def _root(chosen: Mapping[str, Any], weights: Path | None, offline: bool) -> Path:
    if weights is not None or chosen["path"] is not None:
        return at_home(weights if weights is not None else chosen["path"])
    if chosen["id"] is None:
        raise Error("a diffusers model needs 'path', a folder saved by save_pretrained, or 'id', a hub repository")
    return hub.folder(chosen["id"], chosen["revision"], PARTS, chosen["variant"], offline=offline)


def _pipeline(root: Path) -> _Pipeline:
    """Which components a folder has; refused by name when we have no use for one."""
    index = hub.read_json(root / "model_index.json")
    named: dict[str, str] = {}
    for part, value in index.items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):
            named[part] = value[1]
    kind = str(index.get("_class_name"))
    if any(part.startswith(("text_encoder", "tokenizer", "prompt")) for part in named):
        reason = stable_diffusion.unfit(root, index) or "use type: stable-diffusion"
        raise Error(f"{root}: {kind} takes text; {reason}")
    network = next((named[part] for part in ("unet", "transformer") if part in named), None)
    network = {old: new for new, old in hub.ALIASES.items()}.get(str(network), network)
    if network not in NETWORKS:
        raise choose(f"network of {root}", network, NETWORKS)
    part = next((part for part in ("vae", "vqvae") if part in named), "")
    if part and named[part] not in DECODERS:
        raise choose(f"decoder of {root}", named[part], DECODERS)
    if "scheduler" not in named:
        raise Error(f"{root}: model_index.json names no scheduler, which would say what the network predicts")
    return _Pipeline(root, kind, network, named.get(part), part, named["scheduler"])


def _network(net: Any, scale: float, *, conditional: bool) -> Network:
    """One calling convention. Of a network that also predicts a variance, the mean."""

    def network(x: Tensor, model_time: Tensor, labels: Tensor | None) -> Tensor:
        given = {"class_labels": labels} if conditional else {}
        return without_variance(net(x, scale * model_time, **given).sample, x)

    return network


def _classes(
    network: str, config: Any, chosen: Mapping[str, Any], spec: Mapping[str, Any]
) -> tuple[list[int], Guidance | None]:
    """Classes to sample, and guidance towards them, of a network's configuration."""
    scale, null = chosen["guidance"], chosen["null_class"]
    if network == "DiTTransformer2DModel":  # its embedding has one more row, for "no class"
        count = config.num_embeds_ada_norm
        require_classes(spec, count)
        if null not in (None, count):
            raise Error(f"null_class = {null}: for this network it is {count}, the row after its classes; leave it out")
        null = count
    else:
        count = config.num_class_embeds or 0
        require_classes(spec, count)
        if null is not None and not 0 <= null < count:
            raise Error(f"null_class = {null}: the classes are 0 to {count - 1}; name the one that means 'none'")
    numbers = [c for c in range(count) if c != null]
    if count and not numbers:
        raise Error(f"null_class = {null}: it is the network's only class, so there is none to sample")
    if scale is None:
        return numbers, None
    if null is None:
        raise Error("guidance needs a class-conditional model and 'null_class', the class number that means 'none'")
    return numbers, Guidance(scale, torch.tensor([null]))


def _shape(pipeline: _Pipeline, given: Any) -> tuple[int, int, int]:
    """Of a state, from the networks' configurations, which must fit each other."""
    with extra("diffusers"):
        import diffusers

    make, path = getattr(diffusers, pipeline.network), pipeline.place(NETWORKS[pipeline.network])
    sizes = hub.sizes(make, path)
    fixed = pipeline.network == "DiTTransformer2DModel"  # its embedding of places is of one size
    own = 0 if fixed and sizes.sample_size is None else sizes.sample_size
    shape = hub.shape(own, sizes.in_channels, None if fixed else given, path)
    if fixed and given not in (None, sizes.sample_size, list(shape[1:]), shape[1:]):
        raise Error(f"{path}: made for sample_size {sizes.sample_size}, not {given}; leave sample_size out")
    channels, out = sizes.in_channels, sizes.out_channels or sizes.in_channels
    if out not in (channels, 2 * channels):
        raise Error(f"{path}: a {pipeline.network} that takes {channels} channels and returns {out}, as for conditional"
                    " images: not supported, a prediction has as many as its sample, or twice")  # fmt: skip
    if getattr(sizes, "time_embedding_type", "positional") != "positional" or getattr(sizes, "class_embed_type", None):
        raise Error(f"{path}: only positional time embeddings and class numbers are supported for UNet2DModel")
    labelled = getattr(sizes, "num_class_embeds", None) or getattr(sizes, "num_embeds_ada_norm", None)
    label = {"class_labels": torch.zeros(1, dtype=torch.long, device="meta")} if labelled else {}
    hub.trial(make, vars(sizes), lambda net: net(torch.empty(1, *shape), torch.ones(1), **label), path)
    if pipeline.decoder:
        decoder, place = getattr(diffusers, pipeline.decoder), pipeline.place(pipeline.decoder_part)
        hub.trial(decoder, vars(hub.sizes(decoder, place)), lambda net: net.decode(torch.empty(1, *shape)), place)
    return shape


def _facts(chosen: Mapping[str, Any], pipeline: _Pipeline, prediction: str, count: int) -> dict[str, Any]:
    plan = {"plan": chosen["classes"], "seed": chosen["class_seed"], "count": count}
    return {
        "type": "diffusers",
        "id": chosen["id"],
        "path": str(pipeline.root),
        "revision": hub.revision_of(pipeline.root) or chosen["revision"],
        "variant": chosen["variant"],
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

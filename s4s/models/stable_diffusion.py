"""Stable Diffusion v1.4 and v1.5 in the diffusers layout, with guidance and prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, extra
from s4s.files import at_home
from s4s.models import captions, hub
from s4s.models.model import DTYPES, RUN, Condition, Guidance, Model, freeze, make_denoiser, running, settings
from s4s.models.scheduler import schedule
from s4s.process import Process

V1_4 = "CompVis/stable-diffusion-v1-4"
V1_5 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
VERSIONS = {V1_4: "v1.4", V1_5: "v1.5"}
REVISIONS = {V1_4: "7f210fac9bbc55dcc6d63798d4ea25e5dc8289b6"}
LICENCE = "CreativeML OpenRAIL-M"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
COMPONENTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
UNUSED = ("scheduler", "safety_checker", "feature_extractor", "image_encoder")
MORE = {  # what other pipelines tell their U-Net beside the state, the time and the text
    "addition_embed_type": "sizes or pooled text",
    "class_embed_type": "classes",
    "num_class_embeds": "classes",
    "encoder_hid_dim_type": "images or projected text",
    "time_cond_proj_dim": "the guidance, as distilled networks are",
}
OWN = "in Python process.denoiser(net) takes any network"
TEXT_BATCH = 16  # prompts of one call of the text encoder, aligned to the index: an embedding has one value
DEFAULTS = {
    "id": V1_4,
    "revision": None,
    "path": None,
    "variant": None,
    "sample_size": None,
    "guidance": 7.5,
    "prompts": "coco",
    "n_prompts": captions.COCO_30K.count,
    **RUN,
    "t_min": None,
    "t_max": None,
}


def load(spec: Mapping[str, Any], weights: Path | None, *, device: str = "cpu", offline: bool = False) -> Model:
    """A Stable Diffusion 1.x folder or repository as a ``Model`` in latent space.

    ``prompts`` is ``coco``, or a text file with one prompt a line, or a COCO annotation file; sample ``i`` gets prompt
    ``i`` modulo their number.
    """
    with extra("diffusers"):
        from diffusers import AutoencoderKL, UNet2DConditionModel

    chosen = settings(spec, DEFAULTS)
    dtype = DTYPES[chosen["dtype"]]
    lines = captions.prompts(chosen["prompts"], chosen["n_prompts"], offline=offline)
    local = weights if weights is not None else chosen["path"]
    revision = chosen["revision"] or REVISIONS.get(chosen["id"])
    root = at_home(local) if local else hub.folder(chosen["id"], revision, PARTS, chosen["variant"], offline=offline)
    process, prediction, shape = _read(root, chosen)
    variant = chosen["variant"]
    unet = freeze(hub.component(UNet2DConditionModel, root / "unet", dtype, variant), device, chosen["channels_last"])
    vae = freeze(hub.component(AutoencoderKL, root / "vae", dtype, variant), device)
    embed = text_encoder(root, device, variant)

    def network(x: Tensor, model_time: Tensor, embeddings: Tensor | None) -> Tensor:
        if embeddings is None:
            raise Error("Stable Diffusion needs text embeddings")
        out: Tensor = unet(x, model_time, encoder_hidden_states=embeddings.to(x.dtype)).sample
        return out

    guidance = None if chosen["guidance"] is None else Guidance(chosen["guidance"], embed([""]))
    return Model(
        process,
        shape,
        make_denoiser(process, running(network, chosen), prediction, dtype=dtype, conditional=True, guidance=guidance),
        hub.decoder(vae, dtype, shifted=False),
        by_index(lines, embed),
        _facts(chosen, root, lines, local is not None),
    )


def check(spec: Mapping[str, Any], root: Path) -> Process:
    """The process of a folder; raises what ``load`` would raise, but for what its weights hold."""
    return _read(root, settings(spec, DEFAULTS))[0]


def unfit(root: Path, index: Mapping[str, Any]) -> str | None:
    """Why a pipeline is not of this type, with what to do; None if it is."""
    with extra("diffusers"):
        from diffusers import UNet2DConditionModel

    named = {part: value[1] for part, value in index.items() if isinstance(value, list) and value[1:] and value[1]}
    for part, classes in COMPONENTS.items():
        if (found := named.get(part)) not in classes:
            if "text_encoder" not in named and "tokenizer" not in named:
                return "it takes no text; use type: diffusers"
            return f"its {part} is {found or 'missing'}, needs {classes[0]} as in Stable Diffusion 1.x; {OWN}"
    if more := sorted(set(named) - {*COMPONENTS, *UNUSED}):
        return f"it has a {more[0]} as well, which Stable Diffusion 1.x has not; {OWN}"
    sizes = hub.sizes(UNet2DConditionModel, hub.place(root, "unet"))
    for key, what in MORE.items():
        if getattr(sizes, key) is not None:
            return f"its U-Net is also told {what} ({key}), unlike Stable Diffusion 1.x; {OWN}"
    if sizes.in_channels != sizes.out_channels:
        return (f"its U-Net takes {sizes.in_channels} channels and returns {sizes.out_channels}, as for"
                " inpainting or super-resolution: not supported, a sample has as many as its prediction")  # fmt: skip
    return None


def _read(root: Path, chosen: Mapping[str, Any]) -> tuple[Process, str, tuple[int, int, int]]:
    """Process, prediction and shape of the state, from a folder's configurations, which must fit each other."""
    with extra("diffusers"):
        from diffusers import AutoencoderKL, UNet2DConditionModel

    index = hub.read_json(root / "model_index.json")
    if reason := unfit(root, index):
        raise Error(f"{root}: {index.get('_class_name')}: {reason}")
    hub.check_weights(root, PARTS, chosen["variant"])
    scheduler = hub.read_json(hub.place(root, "scheduler") / "scheduler_config.json")
    kind = index["scheduler"][1] if isinstance(index.get("scheduler"), list) else scheduler.get("_class_name")
    process, prediction, _ = schedule(str(kind), scheduler, chosen["t_min"], chosen["t_max"])
    path, vae, text = root / "unet", root / "vae", hub.read_json(root / "text_encoder" / "config.json")
    sizes = hub.sizes(UNet2DConditionModel, path)
    shape = hub.shape(sizes.sample_size, sizes.in_channels, chosen["sample_size"], path)
    width = text.get("hidden_size", 512)
    if sizes.cross_attention_dim != width:
        raise Error(f"{path}: takes embeddings of {sizes.cross_attention_dim} numbers, the text encoder makes {width}")
    call = {"encoder_hidden_states": torch.empty(1, 2, width, device="meta")}
    hub.trial(UNet2DConditionModel, vars(sizes), lambda net: net(torch.empty(1, *shape), torch.ones(1), **call), path)
    decoder = vars(hub.sizes(AutoencoderKL, vae))
    hub.trial(AutoencoderKL, decoder, lambda net: net.decode(torch.empty(1, *shape)), vae)
    return process, prediction, shape


def text_encoder(root: Path, device: str, variant: str | None = None) -> Callable[[Sequence[str]], Tensor]:
    """Prompts -> the text encoder's last hidden states [n, tokens, width], float32, always computed by 16 prompts."""
    with extra("diffusers"):
        from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)
    except Exception as error:  # whatever a damaged folder makes the library raise
        raise Error(f"{root / 'tokenizer'}: not the files of a CLIPTokenizer; save or fetch the model again") from error
    encoder = freeze(hub.component(CLIPTextModel, root / "text_encoder", torch.float32, variant), device)
    length = encoder.config.max_position_embeddings

    def embed(prompts: Sequence[str]) -> Tensor:
        padded = [*prompts, *[""] * (TEXT_BATCH - len(prompts))]
        tokens = tokenizer(padded, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states: Tensor = encoder(tokens.input_ids.to(device))[0]
        return states[: len(prompts)]

    return embed


def by_index(prompts: Sequence[str], embed: Callable[[Sequence[str]], Tensor]) -> Condition:
    """Embedding of prompt ``i`` modulo their number, for every index; the same bits for any batch."""

    def condition(indices: range) -> Tensor:
        rows = [i % len(prompts) for i in indices]
        blocks = {row // TEXT_BATCH for row in rows}
        made = {b: embed(prompts[b * TEXT_BATCH : (b + 1) * TEXT_BATCH]) for b in sorted(blocks)}
        return torch.stack([made[row // TEXT_BATCH][row % TEXT_BATCH] for row in rows])

    return condition


def _facts(chosen: Mapping[str, Any], root: Path, lines: Sequence[str], local: bool) -> dict[str, Any]:
    return {
        "type": "stable-diffusion",
        "id": chosen["id"],
        "version": VERSIONS.get(chosen["id"], "unknown") + (" as configured; a local folder" if local else ""),
        "revision": hub.revision_of(root) or ("local folder" if local else chosen["revision"]),
        "variant": chosen["variant"],
        "files_sha256": hub.hashes(root, PARTS),
        "ema": "the published weights",
        **{key: chosen[key] for key in RUN},
        "text_encoder_dtype": "float32",
        "guidance": chosen["guidance"],
        "prompts": captions.facts(chosen["prompts"], lines),
        "licence": LICENCE,
    }

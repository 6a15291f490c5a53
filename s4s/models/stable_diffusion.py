"""Stable Diffusion v1.4 and v1.5 in the diffusers layout, with guidance and prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.models import captions, hub
from s4s.models.model import DTYPES, RUN, Condition, Guidance, Model, freeze, make_denoiser, running, settings

V1_4 = "CompVis/stable-diffusion-v1-4"
V1_5 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
VERSIONS = {V1_4: "v1.4", V1_5: "v1.5"}
REVISIONS = {V1_4: "7f210fac9bbc55dcc6d63798d4ea25e5dc8289b6"}
LICENCE = "CreativeML OpenRAIL-M"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
TEXT_BATCH = 16  # prompts of one call of the text encoder, aligned to the index: an embedding has one value
DEFAULTS = {
    "id": V1_4,
    "revision": None,
    "path": None,
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
    from diffusers import AutoencoderKL, UNet2DConditionModel

    chosen = settings(spec, DEFAULTS)
    dtype = DTYPES[chosen["dtype"]]
    lines = captions.prompts(chosen["prompts"], chosen["n_prompts"], offline=offline)
    local = weights if weights is not None else chosen["path"]
    revision = chosen["revision"] or REVISIONS.get(chosen["id"])
    root = Path(local).expanduser() if local else hub.folder(chosen["id"], revision, PARTS, offline=offline)
    index = hub.read_json(root / "model_index.json")
    scheduler = hub.read_json(root / "scheduler" / "scheduler_config.json")
    kind = index["scheduler"][1] if isinstance(index.get("scheduler"), list) else scheduler.get("_class_name")
    process, prediction, _ = hub.schedule(str(kind), scheduler, chosen["t_min"], chosen["t_max"])
    unet = freeze(hub.component(UNet2DConditionModel, root / "unet", dtype), device, chosen["channels_last"])
    vae = freeze(hub.component(AutoencoderKL, root / "vae", dtype), device)
    embed = text_encoder(root, device)

    def network(x: Tensor, model_time: Tensor, embeddings: Tensor | None) -> Tensor:
        if embeddings is None:
            raise Error("Stable Diffusion needs text embeddings")
        out: Tensor = unet(x, model_time, encoder_hidden_states=embeddings.to(x.dtype)).sample
        return out

    guidance = None if chosen["guidance"] is None else Guidance(float(chosen["guidance"]), embed([""]))
    size = unet.config.sample_size
    return Model(
        process,
        (unet.config.in_channels, size, size),
        make_denoiser(process, running(network, chosen), prediction, dtype=dtype, conditional=True, guidance=guidance),
        hub.decoder(vae, dtype),
        by_index(lines, embed),
        _facts(chosen, root, lines, local is not None),
    )


def text_encoder(root: Path, device: str) -> Callable[[Sequence[str]], Tensor]:
    """Prompts -> the text encoder's last hidden states [n, tokens, width], float32, always computed by 16 prompts."""
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)
    except Exception as error:  # whatever a damaged folder makes the library raise
        raise Error(f"{root / 'tokenizer'}: not the files of a CLIPTokenizer; save or fetch the model again") from error
    encoder = freeze(hub.component(CLIPTextModel, root / "text_encoder", torch.float32), device)
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
        "files_sha256": hub.hashes(root, PARTS),
        "ema": "the published weights",
        **{key: chosen[key] for key in RUN},
        "text_encoder_dtype": "float32",
        "guidance": chosen["guidance"],
        "prompts": captions.facts(chosen["prompts"], lines),
        "licence": LICENCE,
    }

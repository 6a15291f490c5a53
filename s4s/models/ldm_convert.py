"""``s4s import ldm``: a CompVis checkpoint becomes safetensors and JSON, once; nothing in it is executed.

The mapping of names is derived from our own networks: every tensor of theirs has exactly one source in the checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from s4s.errors import Error, choose
from s4s.models.checkpoint import state_dict
from s4s.models.compvis import Source, unet_source, vae_source
from s4s.models.ldm import KINDS, LDMConfig, dump_record, networks, process
from s4s.models.source import check_hash, check_request, opened, write

MAX_CKPT_BYTES = 16 << 30
UNET, FIRST_STAGE, CLASSES = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.embedding."
EMA_COUNTERS = frozenset({"model_ema.decay", "model_ema.num_updates"})

State = Mapping[str, Any]
Layout = Mapping[str, tuple[int, ...]]
T = TypeVar("T")


def import_ldm(
    ckpt: Path | str,
    out: Path | str,
    sha256: str | None,
    *,
    kind: str | LDMConfig,
    first_stage: Path | str | None = None,
    first_stage_sha256: str | None = None,
    allow_unverified: bool = False,
    licence: str | None = None,
) -> dict[str, Any]:
    """Convert a CompVis latent diffusion checkpoint to ``out`` and the ``.json`` file beside it.

    Args:
        ckpt: the downloaded file; a regular file.
        out: ``NAME.safetensors``; ``NAME.json`` is written too. Both appear whole, or neither.
        sha256: what the file's SHA-256 must be, checked before anything is parsed.
        kind: a key of ``KINDS``, or sizes of your own.
        first_stage, first_stage_sha256: the VQ-f4 checkpoint, when it is not inside ``ckpt``.
        allow_unverified: go on without hashes; the files are still only read as data.
        licence: terms of the weights, recorded beside them.

    Returns:
        The record written to ``NAME.json``: sizes, which weights (EMA or not), hashes.

    Raises:
        Error: wrong or missing hash; anything unknown, missing, of another shape or not finite in the file.
    """
    ckpt, out = Path(ckpt), Path(out)
    check_request(out, sha256, first_stage_sha256)
    if isinstance(kind, str) and kind not in KINDS:
        raise choose("kind of latent diffusion model", kind, KINDS)
    config = KINDS[kind] if isinstance(kind, str) else kind
    state, digest = _read(ckpt, sha256, allow_unverified)
    source: dict[str, Any] = {"file": ckpt.name, "sha256": digest, "licence": licence}
    stage_path = ckpt if first_stage is None else Path(first_stage)
    stage: State = _part(state, FIRST_STAGE)
    if first_stage is not None:
        stage, digest = _read(stage_path, first_stage_sha256, allow_unverified, "--first-stage-sha256")
        source["first_stage"] = {"file": stage_path.name, "sha256": digest}
    expected = {key: tuple(value.shape) for key, value in networks(config).state_dict().items()}
    with _naming(f"{ckpt}: "):
        _check_schedule(state)
        tensors, ema = _convert_unet(state, config, expected)
    with _naming(f"{stage_path}: first stage: "):
        vae = _convert(stage, _part(expected, "vae."), vae_source(config))
    tensors |= {f"vae.{key}": value for key, value in vae.items()}
    facts = {"kind": kind if isinstance(kind, str) else "custom", "ema": ema, "source": source}
    count = sum(value.numel() for value in tensors.values())
    return write(out, tensors, count, lambda about: dump_record(config, facts | {"weights": about}))


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put the file's name before an error."""
    try:
        yield
    except Error as error:
        raise Error(f"{where}{error}") from error


def _read(path: Path, sha256: str | None, allow_unverified: bool, option: str = "--sha256") -> tuple[State, str]:
    """The state dictionary of a checkpoint, and the file's hash: one open file is hashed, then read."""
    with opened(path, MAX_CKPT_BYTES) as (file, size):
        actual = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        check_hash(path, actual, sha256, allow_unverified, option)
        return state_dict(path, file, size), actual


def _check_schedule(state: State) -> None:
    """The buffers that a checkpoint carries must be those of our process."""
    bar = state.get("alphas_cumprod")
    ours = process()
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    if bar is not None:
        bar = _checked("alphas_cumprod", bar, (1000,))
        if not torch.allclose(bar.double(), ours.alpha(times) ** 2, rtol=1e-4, atol=1e-7):
            raise Error("its noise schedule is not the one of LSUN-Bedroom and ImageNet-256 (0.0015 to 0.0195)")
    scale = state.get("scale_factor")
    if scale is not None and not (isinstance(scale, Tensor) and scale.numel() == 1 and scale.item() == 1):
        raise Error("its latents are scaled; the VQ-f4 models have scale_factor 1")


def _convert_unet(state: State, config: LDMConfig, expected: Layout) -> tuple[dict[str, Tensor], str]:
    """Tensors of the U-Net and the class embeddings, and which weights they are."""
    averaged = any(key.startswith("model_ema.") for key in state)
    source = unet_source(config)
    if averaged:  # these names have lost their dots
        theirs = {
            key: value for key, value in state.items() if key.startswith("model_ema.") and key not in EMA_COUNTERS
        }
        made = _convert(theirs, _part(expected, "unet."), lambda key: _without_dots(source(key)))
    else:
        made = _convert(_part(state, UNET), _part(expected, "unet."), source)
    tensors = {f"unet.{key}": value for key, value in made.items()}
    if config.classes:
        embedding = _convert(_part(state, CLASSES), _part(expected, "classes."), Source)
        tensors |= {f"classes.{key}": value for key, value in embedding.items()}
    return tensors, "the EMA copy in the file" if averaged else "no separate copy in the file; its only weights"


def _without_dots(source: Source) -> Source:
    return replace(source, name=f"model_ema.diffusion_model{source.name.replace('.', '')}")


def _part(state: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The entries under a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _convert(state: State, expected: Layout, source: Callable[[str], Source]) -> dict[str, Tensor]:
    """Our tensors from theirs; every one of either side is used."""
    made, used = {}, set()
    for key, shape in expected.items():
        theirs = source(key)
        if theirs.name not in state:
            raise Error(f"the checkpoint lacks the tensor {theirs.name[:100]!a}")
        used.add(theirs.name)
        value = _checked(theirs.name, state[theirs.name], theirs.shape(shape))
        made[key] = theirs.read(value, shape)
    unknown = {key for key in state.keys() - used if not key.startswith("loss.")}
    if unknown:
        raise Error(f"the checkpoint has the unknown tensor {min(unknown)[:100]!a} ({len(unknown)} in all)")
    return made


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise Error(f"{name[:100]!a} is not a plain tensor")
    if value.dtype != torch.float32 or tuple(value.shape) != shape:
        raise Error(f"tensor {name[:100]!a} is {value.dtype} {list(value.shape)}, needs torch.float32 {list(shape)}")
    if not value.isfinite().all():
        raise Error(f"tensor {name[:100]!a} holds NaN or infinity")
    return value.detach()

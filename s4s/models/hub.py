"""Folders in the diffusers layout: fetched at a revision or local, read strictly, hashed; no code from them is run."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.discrete import VPDiscrete
from s4s.errors import Error, choose
from s4s.files import sha256
from s4s.models import checkpoint
from s4s.models.model import in_chunks
from s4s.process import Flow, Process

MAX_CONFIG_BYTES = 4 << 20
WEIGHTS = ("*.safetensors", "*.bin")  # in order of preference
DECODE_BATCH = 8

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
DISCRETE = frozenset({
    "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete",
    "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LMSDiscrete", "PNDM", "UniPCMultistep",
})  # fmt: skip
FLOW = frozenset({"FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"})


def folder(id: str, revision: str | None, parts: Sequence[str], *, offline: bool = False) -> Path:
    """The local snapshot of a Hugging Face repository: ``parts`` of it (sub-folders), fetched unless already there.

    Raises:
        Error: no network, no such repository or revision; says where to put the files by hand.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    def fetch(pattern: str) -> Path:
        names = [f"{part}/{name}" for part in parts for name in (pattern, "*.json", "*.txt")]
        skip = [f"*.{kind}.*" for kind in ("fp16", "non_ema", "ema_only")]
        return Path(
            snapshot_download(
                id,
                revision=revision,
                allow_patterns=["model_index.json", *names],
                ignore_patterns=skip,
                local_files_only=offline,
            )
        )

    try:
        found = fetch(WEIGHTS[0])
        networks = [config.parent for config in found.glob("*/config.json")]
        return found if all(any(net.glob(WEIGHTS[0])) for net in networks) else fetch(WEIGHTS[1])
    except Exception as error:  # requests, hub and file errors of several libraries
        at = f"{id} at revision {revision or 'main'}"
        reason = "offline mode is on" if offline else _line(error)
        raise Error(
            f"{at} is not on this machine and cannot be fetched: {reason}; fetch the folders {', '.join(parts)} of"
            f" https://huggingface.co/{id} elsewhere and give their folder as 'path', or fill the cache {HF_HUB_CACHE}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A configuration of a pipeline."""
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_CONFIG_BYTES))
    except OSError as error:
        raise Error(f"{path}: cannot read it ({error.strerror}); is this a folder saved by diffusers?") from error
    except (ValueError, RecursionError) as error:
        raise Error(f"{path}: not a JSON file, or a truncated one; save or fetch the model again") from error
    if not isinstance(data, dict):
        raise Error(f"{path}: must hold an object; save or fetch the model again")
    return data


def component(make: Any, path: Path, dtype: torch.dtype) -> Any:
    """A network from its sub-folder, with exactly the weights its configuration asks for.

    Args:
        make: the class, of diffusers or transformers.
        path: the sub-folder, for example ``.../unet``.
        dtype: of the weights, but for the few that the class keeps in float32.
    """
    if not path.is_dir():
        raise Error(f"{path}: no such folder; save or fetch the model again")
    library = make.__module__.split(".")[0]
    options: dict[str, Any] = {"local_files_only": True, "output_loading_info": True}
    options["torch_dtype" if library == "diffusers" else "dtype"] = dtype
    try:
        for file in path.glob("*.bin"):
            with file.open("rb") as opened:
                checkpoint.check(file, opened, file.stat().st_size)
        with _quiet(library):
            net, info = make.from_pretrained(path, **options)
    except Error:
        raise
    except Exception as error:  # whatever a damaged file makes these libraries raise
        raise Error(f"{path}: not the weights and configuration of a {make.__name__}: {_line(error)}") from error
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        keys = sorted(str(key) for key in info[kind] if not str(key).endswith("position_ids"))
        if keys:
            raise Error(f"{path}: {len(keys)} {kind.replace('_', ' ')} in the weights, such as {_line(keys[0])!r}")
    for name, value in net.state_dict().items():
        if not value.isfinite().all():
            raise Error(f"{path}: tensor '{name}' holds NaN or infinity")
    return net


def hashes(root: Path, parts: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every weight and configuration file of some sub-folders."""
    kinds = {".safetensors", ".bin", ".json"}
    files = [p for part in parts for p in sorted((root / part).glob("*")) if p.suffix in kinds]
    return {str(p.relative_to(root)): sha256(p) for p in files}


def revision_of(path: Path) -> str | None:
    """The commit a snapshot of the hub's cache is of; None for any other folder."""
    return path.name if path.parent.name == "snapshots" else None


def schedule(
    kind: str, config: Mapping[str, Any], t_min: float | None = None, t_max: float | None = None
) -> tuple[Process, str, float]:
    """Process, prediction and what the network's time is multiplied by, from a scheduler's class and configuration.

    Raises:
        Error: a scheduler, schedule or prediction that is not a discrete variance-preserving process or a flow.
    """
    name = kind.removesuffix("Scheduler")
    prediction = config.get("prediction_type", "flow_prediction" if name in FLOW else "epsilon")
    if name not in DISCRETE | FLOW:
        raise choose("scheduler", kind, {f"{n}Scheduler" for n in DISCRETE | FLOW})
    if prediction not in PREDICTIONS:
        raise choose("prediction_type", prediction, PREDICTIONS)
    for key in ("rescale_betas_zero_snr", "invert_sigmas"):
        if config.get(key):
            raise Error(f"{kind}: {key} is not supported")
    if config.get("timestep_type", "discrete") != "discrete":
        raise Error(f"{kind}: timestep_type {config['timestep_type']!r} is not supported, only 'discrete'")
    ends: dict[str, Any] = {key: value for key, value in (("t_min", t_min), ("t_max", t_max)) if value is not None}
    if name in FLOW or prediction == "flow_prediction":
        if prediction != "flow_prediction":
            raise Error(f"{kind}: prediction_type {prediction!r} is not supported; a flow predicts the flow")
        return Flow(**ends), "flow", float(config.get("num_train_timesteps", 1000))
    return VPDiscrete((1 - betas(config)).cumprod(0), **ends), PREDICTIONS[prediction], 1.0


def betas(config: Mapping[str, Any]) -> Tensor:
    """The noise schedule of a discrete scheduler, float64 [K]."""
    count, kind = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "linear")
    if kind not in BETAS:
        raise choose("beta_schedule", kind, BETAS)
    if type(count) is not int or not 2 <= count <= 100_000:
        raise Error(f"num_train_timesteps = {count!r} must be a whole number from 2 to 100000")
    trained, ends = config.get("trained_betas"), (config.get("beta_start", 1e-4), config.get("beta_end", 0.02))
    numbers = ends if trained is None else trained
    if not isinstance(numbers, list | tuple) or not all(type(b) in (int, float) and 0 <= b < 1 for b in numbers):
        raise Error("the noise schedule's betas must be numbers from 0 to below 1")
    return BETAS[kind](*ends, count) if trained is None else torch.tensor(trained, dtype=torch.float64)


def _cosine(start: float, end: float, count: int) -> Tensor:
    # Nichol & Dhariwal 2021, Eq. 17, with its bound of 0.999 on every beta
    k = torch.arange(count + 1, dtype=torch.float64) / count
    bar = ((k + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
    return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": lambda start, end, count: torch.linspace(start, end, count, dtype=torch.float64),
    "scaled_linear": lambda start, end, count: torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2,
    "squaredcos_cap_v2": _cosine,
}


def decoder(vae: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Latents -> images, a few at a time; undoes the scaling and shift that diffusion was trained with."""
    scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0
    return in_chunks(lambda z: vae.decode(z / scale + shift).sample, DECODE_BATCH, dtype)


@contextlib.contextmanager
def _quiet(library: str) -> Iterator[None]:
    """No progress bars and no warnings of a library: what it would warn of is raised by ``component``."""
    log = importlib.import_module(f"{library}.utils.logging")
    level = log.get_verbosity()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        log.enable_progress_bar()


def _line(text: object) -> str:
    """The first sentence of an error of another library, printable, on one line."""
    line = str(text).strip().split("\n")[0] or type(text).__name__
    return "".join(c if c.isprintable() else " " for c in line)[:200]

"""Folders in the diffusers layout: fetched at a revision or local, read strictly, hashed; no code from them is run."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, extra
from s4s.models import checkpoint
from s4s.models.folder import hashes as hashes
from s4s.models.model import in_chunks
from s4s.models.scheduler import betas as betas

MAX_CONFIG_BYTES = 4 << 20
KINDS = ("safetensors", "bin")  # of weights, in order of preference
STEMS = {
    "diffusers": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "transformers": {"safetensors": "model", "bin": "pytorch_model"},
}
FLAT = ("config.json", "scheduler_config.json")  # what lies beside model_index.json in a flat repository, and weights
VARIANTS = ("fp16", "bf16", "fp32", "ema", "non_ema", "ema_only")  # left out of a download that did not ask for one
ALIASES = {"DiTTransformer2DModel": "Transformer2DModel"}  # what a class was called when older folders were saved
DECODE_BATCH = 8


def folder(
    id: str,
    revision: str | None,
    parts: Sequence[str],
    variant: str | None = None,
    *,
    offline: bool = False,
    kinds: Sequence[str] = KINDS,
) -> Path:
    """The local snapshot of a Hugging Face repository: ``parts`` of it (sub-folders), fetched unless already there.

    A flat repository has the files of its one network and of its scheduler beside ``model_index.json``. Of the
    ``kinds`` of weights the first that a part has are fetched.

    Raises:
        Error: no network, no such repository or revision; says where to put the files by hand.
    """
    with extra("diffusers"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE

    others = [f"*.{kind}{end}" for kind in VARIANTS if kind != variant for end in (".*", "-*")]

    def fetch(names: str, lacking: Sequence[str]) -> Path:
        below = [f"{part}/{name}" for part in parts for name in ("*.json", "*.txt", "*.model")]
        below += [f"{part}/{names}" for part in lacking]
        flat = [*FLAT, f"{STEMS['diffusers']['bin']}{names}", f"{STEMS['diffusers']['bin']}*.json"]
        allow = ["model_index.json", *flat, *below]
        return Path(
            snapshot_download(
                id, revision=revision, allow_patterns=allow, ignore_patterns=others, local_files_only=offline
            )
        )

    wanted, lacking = [f"*.{variant}*.{kind}" for kind in kinds] if variant else [], parts
    try:
        for names in [*wanted, *(f"*.{kind}" for kind in kinds)]:
            found = fetch(names, lacking)
            without = [net.parent for net in _networks(found) if not _weights(net.parent, variant)]
            lacking = [part for part in parts if place(found, part) in without]
            if not lacking:
                break
        return found
    except Exception as error:  # requests, hub and file errors of several libraries
        at = f"{id} at revision {revision or 'main'}"
        reason = "offline mode is on" if offline else line(error)
        raise Error(
            f"{at} is not on this machine and cannot be fetched: {reason}; fetch the folders {', '.join(parts)} of"
            f" https://huggingface.co/{id} elsewhere and give their folder, or fill the cache {HF_HUB_CACHE}"
        ) from error


def place(root: Path, part: str) -> Path:
    """Where a component's files are: its sub-folder, or the folder itself where a flat repository has none."""
    return root if not (root / part).is_dir() and any((root / name).is_file() for name in FLAT) else root / part


def _networks(root: Path) -> list[Path]:
    """Configurations of networks in a folder; of a flat one its own."""
    return [*root.glob("*/config.json")] or [*root.glob("config.json")]


def check_weights(root: Path, parts: Sequence[str], variant: str | None) -> None:
    """Raise if a network of a folder has no weights that are to be read, or none has the variant asked for."""
    nets = [net for net in dict.fromkeys(place(root, part) for part in parts) if (net / "config.json").is_file()]
    found = {net: _weights(net, variant) for net in nets}
    for net, kind in found.items():
        if kind is None:
            raise Error(f"{net}: {_instead(net)}")
    if variant and not any(kind and kind[1] == variant for kind in found.values()):
        raise Error(f"{root}: no weights of the variant {variant!r}; leave variant out, or give the one in their names")


def _weights(path: Path, variant: str | None, libraries: Sequence[str] = tuple(STEMS)) -> tuple[str, str | None] | None:
    """Kind and variant of the weights of a network that are to be read: of the variant if it has it; None if none."""
    for chosen in (variant, None) if variant else (None,):
        for kind in KINDS:
            dot = f".{chosen}" if chosen else ""
            for stem in {STEMS[library][kind] for library in libraries}:
                parts = (f"{stem}.{kind}.index{dot}.json", f"{stem}.{kind}{dot}.index.json")
                sharded = any((path / name).is_file() for name in parts) and any(path.glob(f"{stem}*-of-*.{kind}"))
                if sharded or (path / f"{stem}{dot}.{kind}").is_file():
                    return kind, chosen
    return None


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


def sizes(make: Any, path: Path) -> SimpleNamespace:
    """What a network of diffusers is built with: its configuration, over the defaults of its class.

    Raises:
        Error: no configuration, or one of another class than ``make``.
    """
    if not path.is_dir():
        raise Error(f"{path}: no such folder; save or fetch the model again")
    found, name = read_json(path / "config.json"), make.__name__
    if (said := found.get("_class_name", name)) not in (name, ALIASES.get(name)):
        raise Error(f"{path / 'config.json'}: of a {said!r:.60}, but model_index.json names a {name}")
    known = {key: value.default for key, value in inspect.signature(make.__init__).parameters.items() if key != "self"}
    return SimpleNamespace(**known | {key: value for key, value in found.items() if key in known})


def shape(size: Any, channels: Any, given: Any, path: Path) -> tuple[int, int, int]:
    """Channels, height and width of a state, from a ``sample_size`` of the configuration, or of the user if given."""
    size = size if given is None else given
    if type(channels) is not int or channels < 1:
        raise Error(f"{path / 'config.json'}: in_channels = {channels!r:.60} must be a whole number of at least 1")
    if size is None:
        raise Error(f"{path / 'config.json'}: does not say its sample_size; set sample_size in the model section, a"
                    " number or [height, width]")  # fmt: skip
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise Error(f"{path / 'config.json'}: sample_size = {size!r:.60} must be a positive number or [height, width]")
    return channels, sides[0], sides[1]


def component(make: Any, path: Path, dtype: torch.dtype, variant: str | None = None) -> Any:
    """A network from its folder, with exactly the weights its configuration asks for.

    Args:
        make: the class, of diffusers or transformers.
        path: the folder of its files, for example ``.../unet``.
        dtype: of the weights, but for the few that the class keeps in float32.
        variant: of the weights where the folder has them, such as ``fp16``.
    """
    if not path.is_dir():
        raise Error(f"{path}: no such folder; save or fetch the model again")
    library = make.__module__.split(".")[0]
    options: dict[str, Any] = {"local_files_only": True, "output_loading_info": True}
    options["torch_dtype" if library == "diffusers" else "dtype"] = dtype
    if (found := _weights(path, variant, [library])) is None:
        raise Error(f"{path}: {_instead(path, [library])}")
    options |= {"use_safetensors": found[0] == "safetensors"} | ({"variant": found[1]} if found[1] else {})
    try:
        for file in path.glob("*.bin") if found[0] == "bin" else ():
            with file.open("rb") as opened:
                checkpoint.check(file, opened, file.stat().st_size)
        with quiet(library):
            net, info = make.from_pretrained(path, **options)
    except Error:
        raise
    except Exception as error:  # whatever a damaged file makes these libraries raise
        raise Error(f"{path}: not the weights and configuration of a {make.__name__}: {line(error)}") from error
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        keys = sorted(str(key) for key in info[kind] if not str(key).endswith("position_ids"))
        if keys:
            raise Error(f"{path}: {len(keys)} {kind.replace('_', ' ')} in the weights, such as {line(keys[0])!r}")
    for name, value in net.state_dict().items():
        if not value.isfinite().all():
            raise Error(f"{path}: tensor '{name}' holds NaN or infinity")
    return net


def revision_of(path: Path) -> str | None:
    """The commit a snapshot of the hub's cache is of; None for any other folder."""
    return path.name if path.parent.name == "snapshots" else None


def _instead(path: Path, libraries: Sequence[str] = tuple(STEMS)) -> str:
    """What to say of a folder without the weights that were asked for."""
    files = [f"{STEMS[library][kind]}.{kind}" for library in libraries for kind in KINDS]
    stems = {file.split(".")[0] for file in files}
    names = {p.name.removesuffix(".json").removesuffix(".index") for p in path.iterdir()}
    dots = [name.split(".") for name in names if name.split(".")[0].split("-0")[0] in stems]
    kept = sorted({part.split("-0")[0] for parts in dots for part in parts[1:]} - {*KINDS, "index", "msgpack"})
    if kept:
        return f"holds weights of the variant {' and '.join(kept)} alone: set variant: {kept[0]} in the model section"
    return f"holds no weights that can be read ({', '.join(dict.fromkeys(files))}); save or fetch the model again"


def trial(make: Any, config: Mapping[str, Any], call: Callable[[Any], Any], path: Path) -> None:
    """Call a network of a configuration without memory behind its tensors: ``Error`` in one line if it cannot be."""
    try:
        with torch.device("meta"), torch.no_grad(), quiet("diffusers"):
            net = make.from_config(dict(config))
            with contextlib.suppress(NotImplementedError):  # of an operation without memory, which says nothing
                call(net)
    except Exception as error:  # whatever the library raises of sizes that do not fit
        raise Error(f"{path}: the {make.__name__} of these sizes cannot be called: {line(error)}") from error


def decoder(vae: Any, dtype: torch.dtype, *, shifted: bool = True) -> Callable[[Tensor], Tensor]:
    """Latents -> images, a few at a time; undoes the scaling and, if ``shifted``, the shift of the training."""
    scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0
    for key, value in {"scaling_factor": scale, "shift_factor": shift}.items():
        if type(value) not in (int, float) or not math.isfinite(value) or (key == "scaling_factor" and not value > 0):
            raise Error(f"the decoder's {key} = {value!r} must be a number, as in its config.json when it was saved")
    offset = shift if shifted else 0.0
    return in_chunks(lambda z: vae.decode(z / scale + offset).sample, DECODE_BATCH, dtype)


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """No progress bars and no warnings of a library: what it would warn of is raised by ``component``."""
    with extra("diffusers"):
        log = importlib.import_module(f"{library}.utils.logging")
    level = log.get_verbosity()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        log.enable_progress_bar()


def line(text: object) -> str:
    """The first sentence of an error of another library, printable, on one line."""
    line = str(text).strip().split("\n")[0] or type(text).__name__
    return "".join(c if c.isprintable() else " " for c in line)[:200]

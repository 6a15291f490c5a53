"""A saved diffusers pipeline, whole: a folder or a repository, read as data alone.

Classes are those of diffusers and transformers, weights are safetensors. What would need code from the folder, or a
pickle, is refused by name before anything is loaded.
"""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from s4s.errors import Error, extra
from s4s.files import at_home
from s4s.models import hub
from s4s.models.folder import hashes
from s4s.models.model import freeze

with extra("diffusers"):
    import diffusers

LIBRARIES = ("diffusers", "transformers")
OURS = ("s4s.integrations.diffusers", "S4SScheduler")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
WEIGHTS = ".safetensors"
ID = re.compile(r"[\w.-]+/[\w.-]+")


def place(source: str, *, offline: bool = False) -> Path:
    """The folder of a pipeline: a local one, or the snapshot of a repository ``owner/name``, fetched.

    Raises:
        Error: no such folder, or a repository that cannot be fetched.
    """
    local = at_home(source)
    if local.is_dir():
        return local
    if local.exists():
        raise Error(f"{source}: a file; give the folder that pipe.save_pretrained wrote, or a repository owner/name")
    if not ID.fullmatch(source) or source.startswith("."):
        raise Error(
            f"{source}: no such folder; give the one that pipe.save_pretrained wrote, or a repository owner/name"
        )
    kinds = [WEIGHTS.removeprefix(".")]
    index = hub.folder(source, None, [], offline=offline, kinds=kinds)
    parts = [*components(index)]
    return hub.folder(source, None, parts, offline=offline, kinds=kinds)


def components(root: Path) -> dict[str, tuple[str, str]]:
    """Component -> its library and class, as ``model_index.json`` names them; those that are left out, left out.

    Raises:
        Error: a class that is neither of diffusers nor of transformers: reading it would run code of others.
    """
    index = hub.read_json(root / "model_index.json")
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not hasattr(diffusers, kind):
        named = kind[-1] if isinstance(kind, list) and kind else kind
        raise Error(f"{root}: its pipeline {str(named)!r:.80} is not one of diffusers {diffusers.__version__}; code of "
                    "its own is not run")  # fmt: skip
    found = {}
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list) or len(value) != 2 or value[1] is None:
            continue
        library, name = str(value[0]), str(value[1])
        if not _known(library, name):
            raise Error(f"{root}: its {part} is a {name!r:.80} of {library!r:.80}, neither of diffusers nor of "
                        "transformers; code of its own is not run")  # fmt: skip
        found[part] = (library, name)
    return found


def _known(library: str, name: str) -> bool:
    if (library, name) == OURS:
        return True
    if library in LIBRARIES:
        return hasattr(importlib.import_module(library), name)
    return hasattr(diffusers.pipelines, library)


def variant_of(root: Path) -> str | None:
    """The variant of the weights (``fp16``) where a component has no others.

    Raises:
        Error: a component with a configuration and no weights that can be read as data.
    """
    found = set()
    for part in components(root):
        files = [path.name for path in (root / part).glob("*") if path.is_file()]
        weights = [name for name in files if name.endswith(WEIGHTS)]
        pickles = [name for name in files if name.endswith(PICKLES)]
        if pickles and not weights:
            raise Error(f"{root / part}: its weights are {min(pickles)}, a pickle or the like, which is not read; load "
                        "the pipeline yourself and pipe.save_pretrained(folder), which writes safetensors")  # fmt: skip
        kinds = [re.search(r"\.(\w+)(?:-\d+-of-\d+)?\.safetensors$", name) for name in weights]
        if kinds and all(kinds):
            found.add(min(match[1] for match in kinds if match))
    return min(found) if found else None


def open_pipeline(root: Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """The pipeline of a folder, frozen, on a device.

    Raises:
        Error: code of its own, weights that are pickles, or files that are damaged or do not fit each other.
    """
    parts, variant = components(root), variant_of(root)
    if OURS in parts.values():
        importlib.import_module(OURS[0])  # a library imports no module that a folder names
    make = getattr(diffusers, hub.read_json(root / "model_index.json")["_class_name"])
    options: dict[str, Any] = {"variant": variant} if variant else {}
    try:
        with hub.quiet("diffusers"), hub.quiet("transformers"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names of arguments that change between versions
            pipe = make.from_pretrained(
                root, torch_dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False, **options
            )
    except Exception as error:  # whatever damaged files make these libraries raise
        raise Error(f"{root}: not a pipeline that can be loaded: {hub.line(error)}") from error
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            freeze(component, device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments(pipe: Any) -> dict[str, str]:
    """What a pipeline can be called with, and the types it names."""
    known = inspect.signature(type(pipe).__call__).parameters
    return {key: str(found.annotation).lower() for key, found in known.items()}


def facts(root: Path, source: str) -> Mapping[str, Any]:
    """What a result must say of the pipeline it is from."""
    parts = components(root)
    return {"pipeline": at_home(source).resolve().name if at_home(source).is_dir() else source,
            "revision": hub.revision_of(root), "files_sha256": hashes(root, parts)}  # fmt: skip

"""The download stage: everything published that a config needs, fetched, checked and, where it must be, converted."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from s4s.download import cache_dir, download
from s4s.errors import Error
from s4s.files import at_home, replacing, sha256
from s4s.learn import lpips
from s4s.models import captions, convert, hub, ldm, ldm_convert, stable_diffusion
from s4s.models.diffusers_model import PARTS
from s4s.score import reference
from s4s.score.features import inception_weights, require_channels
from s4s.stages.agree import require_seen
from s4s.stages.bench import Bench
from s4s.stages.cells import compares_by, made_from
from s4s.stages.chain import outside
from s4s.stages.features import protocol_of
from s4s.stages.files import write_json
from s4s.stages.passes import passes

MAX_MEMBER_BYTES = 16 << 30


def download_model(bench: Bench, *, offline: bool = False) -> Path:
    """Fetch the network and what it is scored with, in this order; returns the record of the weights."""
    path = download_network(bench, offline=offline)
    download_scoring(bench, offline=offline)
    return path


def download_network(bench: Bench, *, offline: bool = False) -> Path:
    """Fetch all that teachers and fits take: the network, its prompts, and LPIPS; returns the record of the weights.

    Files that are there already are not fetched again, only checked. ``offline`` never touches the network.

    Raises:
        Error: no network, a wrong hash, nothing to check a file against; names the file, its address and its place.
    """
    spec = bench.config["model"]
    if bench.trained:
        raise Error("model type digits is trained, and needs no download: run `s4s train` instead")
    _beside(bench, offline)
    if _is_there(bench):
        return bench.folder.weights
    found, files = _imported(bench, offline) if spec["type"] in ("edm", "ldm") else _hub(spec, offline)
    write_json(bench.folder.weights, {"made_from": made_from(bench.config, "train")} | found)
    for path in bench.network_files:
        bench.chain.note(path, "download", {}, files)
    return bench.folder.weights


def download_scoring(bench: Bench, *, offline: bool = False) -> Path:
    """Fetch what samples are scored with, extractor and reference; returns the record of them.

    Raises:
        Error: as ``download_network``; or they take other images than those of the network, which is to be there.
    """
    chosen, source = protocol_of(bench.config), protocol_of(bench.config).reference
    weights = bench.folder.weights
    record = json.loads(weights.read_text(encoding="utf-8")) if weights.exists() else {}
    root = Path(record["folder"]) if "folder" in record else bench.folder.model("denoiser")
    with suppress(ImportError):  # of what only some models need; theirs is the line that says so
        require_seen(bench.config, passes(bench.config, root), chosen.extractor)
    found: dict[str, Any] = {"extractor": chosen.extractor, "reference": source and source.where}
    if chosen.weights is not None:
        found["extractor_sha256"] = sha256(inception_weights(weights=chosen.weights, offline=offline))
    if source is not None and source.kind == "npz":
        found["reference_sha256"] = sha256(reference.fetch(source, offline=offline))
    elif source is not None:
        require_channels(chosen.extractor, next(reference.images(source, 1, offline)).shape[1])
    write_json(bench.folder.scoring, found)
    bench.chain.note(bench.folder.scoring, "scoring", {})
    return bench.folder.scoring


def _is_there(bench: Bench) -> bool:
    """Whether an earlier call has done all of it: files that do not change do not make later stages run again."""
    if not all(map(bench.chain.follows, bench.network_files)):
        return False
    record = json.loads(bench.folder.weights.read_text(encoding="utf-8"))
    return "folder" not in record or hub.hashes(Path(record["folder"])) == record["files_sha256"]


def _beside(bench: Bench, offline: bool) -> None:
    """LPIPS and prompts, into the cache."""
    model = bench.config["model"]
    if model["type"] == "stable-diffusion":
        settings = stable_diffusion.DEFAULTS | model
        captions.prompts(settings["prompts"], settings["n_prompts"], offline=offline)
    if compares_by(bench.config, "lpips"):
        lpips.load(offline=offline)


Found = tuple[dict[str, Any], dict[str, str]]
"""What ``weights.json`` says, and the hashes of the files that the model is."""


def _imported(bench: Bench, offline: bool) -> Found:
    """Fetch the original files and write them as safetensors and JSON."""
    spec, out = bench.config["model"], bench.folder.model("denoiser")
    out.parent.mkdir(parents=True, exist_ok=True)
    path = original(spec["weights"], "model.weights", offline)
    given = [key for key in ("weights", "first_stage") if key in spec]
    files = outside(*(published(spec[key], f"model.{key}", offline) for key in given))
    licence = spec["weights"].get("licence")
    if spec["type"] == "edm":
        return {"record": convert.import_edm(path, out, sha256(path), licence=licence)}, files
    kind = spec["kind"]
    if kind == "custom":
        kind = ldm.LDMConfig.from_dict(asdict(ldm.LDMConfig()) | spec["sizes"])
    stage = original(spec["first_stage"], "model.first_stage", offline) if "first_stage" in spec else None
    stage_sha256 = None if stage is None else sha256(stage)
    record = ldm_convert.import_ldm(path, out, sha256(path), kind=kind, first_stage=stage,
                                    first_stage_sha256=stage_sha256, licence=licence)  # fmt: skip
    return {"record": record}, files


def original(spec: Mapping[str, Any], where: str, offline: bool) -> Path:
    """A published file on this machine, or the member of the zip file that it is."""
    path = published(spec, where, offline)
    return _member(path, spec["member"]) if "member" in spec else path


def published(spec: Mapping[str, Any], where: str, offline: bool) -> Path:
    """A published file on this machine, its SHA-256 checked: local or fetched."""
    expected = spec.get("sha256")
    if "path" in spec:
        path = at_home(spec["path"])
        if not path.is_file():
            raise Error(f"{path}: no such file ({where}.path)")
        if expected and sha256(path) != expected.lower():
            raise Error(f"{path}: has SHA-256 {sha256(path)}, not {expected.lower()}: damaged or another file")
    else:
        place = hashlib.sha256(spec["url"].encode()).hexdigest()[:8]  # two addresses may end in one name
        name = Path(urlsplit(spec["url"]).path).name
        path = cache_dir() / "weights" / place / name
        download(spec["url"], path, expected, licence=spec.get("licence"), offline=offline)
    if not expected and not spec["allow_unverified"]:
        raise Error(f"{path}: no SHA-256 to check it against; this file's is {sha256(path)}: compare it with the "
                    f"publisher's and set {where}.sha256, or set {where}.allow_unverified")  # fmt: skip
    return path


def _member(archive: Path, name: str) -> Path:
    """A file inside a zip file, unpacked into the cache; again if the zip file is newer."""
    digest = sha256(archive)
    out = cache_dir() / "weights" / digest[:16] / Path(name).name
    if out.exists():
        return out
    try:
        with zipfile.ZipFile(archive) as file:
            size = file.getinfo(name).file_size
            if size > min(MAX_MEMBER_BYTES, 100 * archive.stat().st_size):
                raise Error(f"{archive}: {name!r} would unfold to {size:,} bytes; not a file of weights")
            print(f"{archive.name}: unpacking {name}", file=sys.stderr)
            with replacing(out) as temporary, file.open(name) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    except KeyError as error:
        raise Error(f"{archive}: has no member {name!r} (model.weights.member)") from error
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise Error(f"{archive}: cannot unpack {name!r} ({error})") from error
    return out


def _hub(spec: Mapping[str, Any], offline: bool) -> Found:
    """A folder in the diffusers layout: a snapshot of the hub, or local."""
    stable = spec["type"] == "stable-diffusion"
    settings: dict[str, Any] = (stable_diffusion.DEFAULTS if stable else {}) | dict(spec)
    if settings.get("path"):
        named, root = settings["path"], at_home(settings["path"])
        if not root.is_dir():
            raise Error(f"{root}: no such folder (model.path)")
    else:
        revision = settings.get("revision") or stable_diffusion.REVISIONS.get(settings["id"])
        parts = stable_diffusion.PARTS if stable else PARTS
        root = hub.folder(settings["id"], revision, parts, settings.get("variant"), offline=offline)
        named = str(root)
    hashes = hub.hashes(root)
    prompts = outside(captions.place(settings["prompts"], offline=offline)) if stable else {}
    files = {f"{named}/{name}": digest for name, digest in hashes.items()} | prompts
    return {"folder": str(root), "revision": hub.revision_of(root), "files_sha256": hashes}, files

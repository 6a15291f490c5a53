"""What a benchmark needs that may be missing: packages, weights, captions, extractor, reference.

Every check asks the function that the pipeline itself would call, offline: no network is used. What is missing is
that function's own error line, which names the address, the place to put the file by hand and its hash.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4s.errors import Error, missing
from s4s.files import at_home, sha256
from s4s.learn import lpips
from s4s.models import captions, diffusers_model, digits_model, hub, ldm, stable_diffusion
from s4s.score import reference
from s4s.score.features import check_extractor, inception_weights, require_channels
from s4s.score.protocol import Protocol
from s4s.stages.agree import require_seen, require_solvers
from s4s.stages.bench import FETCHING
from s4s.stages.cells import compares_by
from s4s.stages.download import published
from s4s.stages.features import protocol_of
from s4s.stages.passes import Pass

Config = Mapping[str, Any]
WEIGHTS = (".safetensors", ".bin")
CHECKS = {"stable-diffusion": stable_diffusion.check, "diffusers": diffusers_model.check}
PARTS = {"stable-diffusion": stable_diffusion.PARTS, "diffusers": diffusers_model.PARTS}
NEEDS = {"ldm": ("diffusers",), "diffusers": ("diffusers",), "stable-diffusion": ("diffusers", "transformers")}


@dataclass(frozen=True)
class Item:
    """One line of the report. ``state`` is ``ok``, ``missing``, or empty for what is only said."""

    state: str
    name: str
    text: str


def network(config: Config, imported: Path) -> tuple[list[Item], Path]:
    """What the network needs, and where its weights are or would be: ``imported``, or a folder in diffusers' layout."""
    spec = config["model"]
    kind, items = spec["type"], []
    if kind in NEEDS:
        items += _packages(NEEDS[kind])
    if kind == "digits":
        there = f"; {imported} is there" if imported.exists() else ""
        return [Item("ok", "networks", f"trained by the pipeline{there}")], imported
    if kind not in PARTS:
        return [*items, *_imported(spec, imported)], imported
    found, root = _snapshot(spec, imported)
    return [*items, found, *([_prompts(spec)] if kind == "stable-diffusion" else [])], root


def scoring(config: Config) -> Iterator[Item]:
    """What the samples are scored with and, while fitting, compared by."""
    chosen = protocol_of(config)
    yield _extractor(chosen, config["score"])
    yield _check("reference", lambda: _found(chosen))
    if compares_by(config, "lpips"):
        yield _check("LPIPS", _lpips)


def solvers(config: Config, root: Path) -> Item:
    """Whether every textbook solver can be made on the grids of the model, whose files are in ``root``."""
    spec, ends = config["model"], {key: value for key, value in config["process"].items() if key != "type"}

    def find() -> str:
        process = None
        if spec["type"] in CHECKS:
            process = CHECKS[spec["type"]](_settings(spec) | ends, root)
        elif spec["type"] == "ldm":
            process = ldm.process(**ends)
        elif spec["type"] == "digits":
            process = digits_model.process(config["process"].get("type", "edm"), **ends)
        require_solvers(config, process)
        return "each can be made on its grid"

    return _check("solvers", find)


def channels(config: Config, found: Sequence[Pass]) -> Item:
    """Whether extractor and LPIPS take the images of the network whose passes were counted."""

    def find() -> str:
        require_seen(config, found, protocol_of(config).extractor)
        return f"{found[-1].shape[0]} an image"

    return _check("channels", find)


def _settings(spec: Config) -> dict[str, Any]:
    """Those of a model that are its loader's."""
    return {key: value for key, value in spec.items() if key not in FETCHING}


def _check(name: str, find: Callable[[], str]) -> Item:
    """``ok`` with what ``find`` says, ``missing`` with the error it raises."""
    try:
        return Item("ok", name, find())
    except Error as error:
        return Item("missing", name, " ".join(str(error).split()))


def _packages(names: tuple[str, ...]) -> list[Item]:
    absent = [name for name in names if not version(name)]
    return [Item("missing", "package", str(missing(f"{name} is not installed", "diffusers"))) for name in absent]


def _imported(spec: Config, imported: Path) -> Iterator[Item]:
    """Weights that the pipeline converts: the result of that, or the published files."""
    if imported.exists():
        yield _check("weights", lambda: _described(imported))
        return
    for name, key in (("weights", "weights"), ("first stage", "first_stage")):
        if key in spec:
            yield _check(name, lambda key=key: _published(spec[key], f"model.{key}"))  # type: ignore[misc]


def _described(path: Path) -> str:
    """Imported weights, held to the hash in the file beside them."""
    actual, record = sha256(path), hub.read_json(path.with_suffix(".json"))
    if (record.get("weights") or {}).get("sha256") != actual:
        raise Error(
            f"{path}: not the weights that the .json file beside it describes; remove both to import them again"
        )
    return f"{path}, SHA-256 {actual}, imported from {(record.get('source') or {}).get('file')}"


def _published(spec: Config, where: str) -> str:
    path = published(spec, where, offline=True)
    verified = "" if spec.get("sha256") else ", not verified"
    return f"{path}, SHA-256 {sha256(path)}{verified}; the pipeline converts it"


def _snapshot(spec: Config, nowhere: Path) -> tuple[Item, Path]:
    """A folder in the diffusers layout, local or in the hub's cache, and its place if it is there."""
    if spec.get("path"):
        root = at_home(spec["path"])
        return _check("weights", lambda: _saved(spec, root)), root
    defaults = stable_diffusion.DEFAULTS if spec["type"] == "stable-diffusion" else {}
    name = spec.get("id", defaults.get("id"))
    revision = spec.get("revision") or stable_diffusion.REVISIONS.get(str(name))
    try:
        root = hub.folder(str(name), revision, PARTS[spec["type"]], spec.get("variant"), offline=True)
    except Error as error:
        return Item("missing", "weights", str(error)), nowhere
    return _check("weights", lambda: _saved(spec, root)), root


def _saved(spec: Config, root: Path) -> str:
    """The folder, its configurations checked, with the hash of its largest file."""
    with suppress(ImportError):  # which has a line of its own
        CHECKS[spec["type"]](_settings(spec), root)
    files = [path for where in (root, *root.glob("*/")) for path in where.glob("*") if path.suffix in WEIGHTS]
    if not files:
        raise Error(f"{root}: holds no weights (.safetensors or .bin); save or fetch the model again")
    largest = max(files, key=lambda path: path.stat().st_size)
    return f"{root}, {len(files)} files of weights; {largest.relative_to(root)} has SHA-256 {sha256(largest)}"


def _prompts(spec: Config) -> Item:
    source, n = spec.get("prompts", "coco"), spec.get("n_prompts", captions.COCO_30K.count)

    def find() -> str:
        return f"{n:,} of {source}, SHA-256 {captions.sha256(captions.prompts(source, n, offline=True))}"

    return _check("captions", find)


def _extractor(chosen: Protocol, score: Config) -> Item:
    if "extractor" in score:
        own = score["extractor"]
        return _check("extractor", lambda: _own_extractor(own))
    if chosen.weights is None:
        return Item("ok", "extractor", f"{chosen.extractor}, trained by the pipeline")
    return _check("extractor", lambda: _hashed(inception_weights(weights=chosen.weights, offline=True)))  # type: ignore[arg-type]


def _own_extractor(spec: Config) -> str:
    check_extractor(spec["name"], spec.get("weights"), spec["layer"])
    if not spec.get("weights"):
        return f"{spec['name']}, registered by you"
    path = at_home(spec["weights"])
    if not path.is_file():
        raise Error(f"{path}: no such file (score.extractor.weights)")
    return f"{spec['name']}: {_hashed(path)}"


def _hashed(path: Path) -> str:
    return f"{path}, SHA-256 {sha256(path)}"


def _found(chosen: Protocol) -> str:
    source = chosen.reference
    if source is None:
        raise Error("the protocol has no reference for this data; set score.data or score.reference")
    if source.kind == "npz":
        path = reference.fetch(source, offline=True)
        found = reference.load_npz(path, source.sha256, source.count)
        return f"{path}, SHA-256 {found.record['sha256']}{'' if source.sha256 else ', none published'}"
    first = next(reference.images(source, 1, offline=True))
    require_channels(chosen.extractor, first.shape[1])
    return f"{source.kind} {source.where}, images of {list(first.shape[1:])}"


def _lpips() -> str:
    if (made := lpips.place()).exists():
        return _hashed(made)
    return ", ".join(str(path) for path in lpips.sources(offline=True))


def version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

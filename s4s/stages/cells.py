"""What a config asks for: its cells, the files they need, and the part of the config each stage depends on.

Nothing here imports torch: Snakemake reads this on every start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from s4s.errors import Error, choose
from s4s.learn.methods import METHODS, TOGETHER, moves_grid
from s4s.stages.cell import POLISHED, SETTINGS
from s4s.stages.cell import Cell as Cell

PROTOCOLS: dict[str, tuple[str, tuple[str, ...]]] = {  # rounding rule and data sets of each; see s4s.score.protocol
    "edm": ("edm", ("cifar10", "ffhq", "afhqv2")),
    "adm": ("ldm", ("lsun_bedroom", "imagenet256")),
    "torch-fidelity": ("ldm", ("cifar10",)),
    "ld3-latent": ("none", ("lsun_bedroom", "imagenet256", "mscoco")),
    "digits": ("edm", ("digits",)),
}

BY_NETWORK = ("gits", "even")  # schedules that are found by asking the network
OF_SAMPLES = ("fid", "teacher")  # metrics that need no image of the reference
CODE = {"train": 1, "textbook": 1, "teacher": 1, "fit": 2, "curve": 2, "sample": 1, "features": 1, "score": 2}
"""Of each stage; one more with a change of the code that changes its results, so that older ones are made again."""

LATER = {"relaxed": 2, "curve": 2, "skips": 3, "grid": 2, "moments": 2}
"""The same of fits with a radius, of curves and their polish, of fits that leave calls out, that move the grid, and
that count moments."""


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """Every cell of a benchmark, in the order of the tables."""
    made = teachers(config)
    for nfe in config["nfe"]:
        for solver in config["classical"]["solvers"]:
            made += [Cell("classical", *_solver(solver), s, nfe) for s in config["classical"]["schedules"]]
        made += [Cell(name, "", {}, "", nfe) for name in config.get("methods", [])]
        made += _learned(config["learned"], nfe, tuple(config["nfe"]))
    return made


def require_files(config: Mapping[str, Any]) -> None:
    """Raise for a method that is neither built in nor a file of one's own."""
    for each in cells(config):
        if each.file is not None and not each.file.exists():
            write = f"write {each.file}, see `s4s check-method --help`"
            if not each.learned:
                raise Error(f"methods: {each.method!r} has no file; {write}")
            raise Error(f"learned.methods: {choose('method', each.method, (*METHODS, TOGETHER))}; or {write}")


def curves(config: Mapping[str, Any]) -> dict[str, list[Cell]]:
    """The curves of a benchmark, each with the cells that are its solvers."""
    found: dict[str, list[Cell]] = {}
    for made in cells(config):
        if made.together:
            found.setdefault(made.curve, []).append(made)
    return found


def teachers(config: Mapping[str, Any]) -> list[Cell]:
    """The teachers: one for all students, or one for each of their numbers of evaluations."""
    entries = [entry for entry in config["learned"]["methods"] if not isinstance(entry, str)]
    own = dict.fromkeys(entry["teacher_nfe"] for entry in entries if "teacher_nfe" in entry)
    made = [teacher_of(config, nfe) for nfe in config["nfe"]] + [teacher_of(config, 0, nfe) for nfe in own]
    return list(dict.fromkeys(made))


def taught(config: Mapping[str, Any]) -> list[Cell]:
    """Of the teachers those whose samples something is fitted to; none where nothing is learned."""
    learned = [made for made in cells(config) if made.learned]
    return list(dict.fromkeys(teacher_of(config, made.nfe, made.settings.get("teacher_nfe")) for made in learned))


def teacher_of(config: Mapping[str, Any], nfe: int, own: int | None = None) -> Cell:
    """The teacher of students with ``nfe`` evaluations; ``own`` of the teacher, where a method asks for another."""
    spec = config["teacher"]
    if own is None:
        own = nfe + 1 if spec["nfe"] == "student+1" else spec["nfe"]
    return Cell("teacher", *_solver(spec["solver"]), spec["schedule"], own)


def teacher_files(config: Mapping[str, Any], teacher: Cell) -> dict[str, tuple[int, int]]:
    """Where a teacher's samples go, below the folder of results: file -> first and last (exclusive) index."""
    spec = config["teacher"]
    folder = "teacher" if teacher.nfe == spec["nfe"] else f"teacher/nfe{teacher.nfe}"
    n = spec["train"] + spec["validation"]
    if spec.get("shard_size", n) >= n:
        return {f"{folder}/pairs.safetensors": (0, n)}
    return {f"{folder}/{a:06d}-{b:06d}.safetensors": (a, b) for a, b in _ranges(n, spec["shard_size"])}


def radius_of(config: Mapping[str, Any], cell: Cell) -> float:
    """Radius of the relaxed objective of a cell."""
    radius: float = config["learned"]["radius"] if cell.radius is None else cell.radius
    return radius


def learned_as(config: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """The part ``learned`` of the config as it is for a cell: with the settings of its method's entry."""
    return {**config["learned"], **{key: value for key, value in cell.settings.items() if key in config["learned"]}}


def distances(config: Mapping[str, Any]) -> dict[str, str | Mapping[str, float]]:
    """Every distance that a config names, by its place: a name, or the weights of a sum."""
    learned = config["learned"]
    own = {f"learned.methods.{i}.distance": entry["distance"] for i, entry in enumerate(learned["methods"])
           if not isinstance(entry, str) and "distance" in entry}  # fmt: skip
    return {"learned.distance": learned["distance"]} | own


def compares_by(config: Mapping[str, Any], name: str) -> bool:
    """Whether a fit of a config compares by a distance of that name."""
    return any(name in learned_as(config, made)["distance"] for made in cells(config) if made.learned)


def cell(config: Mapping[str, Any], name: str) -> Cell:
    """The cell of that name."""
    for candidate in cells(config):
        if candidate.name == name:
            return candidate
    raise Error(f"no cell {name!r} in benchmark {config['benchmark']!r}; `s4s cells CONFIG` lists them")


def jobs(config: Mapping[str, Any], *, per_nfe: bool = True) -> dict[str, tuple[list[str], list[str]]]:
    """Cells that one job handles together, to be longer than its start: a kind, at an NFE or at all of them.

    Kinds with the same starts differ in their names alone, so one rule does for them: rule -> patterns, kinds.
    """
    found: dict[str, dict[str, None]] = {}
    for made in cells(config):
        name = made.pattern if per_nfe else made.pattern.replace("{nfe}", str(made.nfe))
        found.setdefault(made.kind, {})[name] = None
    rules: dict[str, tuple[list[str], list[str]]] = {}
    for kind, names in found.items():
        alike = next((kinds for patterns, kinds in rules.values() if patterns == list(names)), None)
        if alike is not None:
            alike.append(kind)
            continue
        rules[kind] = (list(names), [kind])
    return {_rule_name(names, kinds, rules): (names, kinds) for names, kinds in rules.values()}


def _rule_name(names: list[str], kinds: list[str], rules: Mapping[str, Any]) -> str:
    """What the cells of a rule are: their kind; learned ones are ``learned``, or their kinds in a further rule."""
    if "{kind}" not in names[0]:
        return kinds[0]
    learned = [made for made, _ in rules.values() if "{kind}" in made[0]]
    kinds = kinds if len(kinds) < 5 else [kinds[0], "and", str(len(kinds) - 1), "more"]
    return "learned" if names == learned[0] else "_".join(["learned", *kinds]).replace("-", "_")


def shards(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """First and last (exclusive) sample index of every shard."""
    return _ranges(config["sample"]["n"], config["sample"]["shard_size"])


def needs_features(config: Mapping[str, Any]) -> bool:
    """Whether a metric needs the features themselves; FID needs only their sums."""
    return bool(config["score"]["bootstrap"]) or config["score"]["metrics"] != ["fid"]


def quick_features(config: Mapping[str, Any]) -> bool:
    """Whether features take less than a job's start: those of kept 8x8 images."""
    return bool(config["model"]["type"] == "digits" and config["sample"]["keep_images"])


def network_files(config: Mapping[str, Any]) -> list[str]:
    """What the stages need of the network, below the folder of results: trained weights, or the record of a fetch."""
    weights, record = "models/denoiser.safetensors", "models/weights.json"
    if config["model"]["type"] == "digits":
        return [weights]
    return [record, weights, "models/denoiser.json"] if config["model"]["type"] in ("edm", "ldm") else [record]


def guided(config: Mapping[str, Any]) -> bool:
    """Whether an evaluation calls the network with and without the condition."""
    model = config["model"]
    default = {"stable-diffusion": 7.5, "ldm": 2.0 if model.get("kind") == "imagenet256" else None}.get(model["type"])
    return model.get("guidance", default) not in (None, 1)


def rows_a_call(config: Mapping[str, Any]) -> int:
    """2 with guidance, which calls the network with and without the condition in one batch."""
    return 2 if guided(config) else 1


def uint8_rule(config: Mapping[str, Any]) -> str:
    """How samples become images: as the protocol does, unless said otherwise."""
    return config["sample"].get("uint8") or PROTOCOLS[config["score"]["protocol"]][0]


def kind_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the network of a digits benchmark is trained for, where that is more than the digits' default."""
    model, process = config["model"], config["process"].get("type", "edm")
    made = {key: model[key] for key in ("latents", "autoencoder_steps") if key in model}
    made |= {"label_dropout": model.get("label_dropout", 0.1)} if "classes" in model else {}
    return made | ({} if process == "edm" else {"process": process})


def made_from(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The part of the config that a stage's result depends on, and the state of the code."""
    model, process = {"model": config["model"]}, {"process": config["process"]}
    trained, network = config["model"]["type"] == "digits", model
    if trained:
        told = ("guidance", "classes", "class_seed", "label_dropout")
        network = {"model": {k: v for k, v in config["model"].items() if k not in told}} | kind_of(config)
    pairs = model | process | {"teacher": {k: v for k, v in config["teacher"].items() if k != "shard_size"}}
    learned = ["distance", "rounds"] + ["space"] * (not trained or "latents" in config["model"])
    learned += ["convert"] * ("convert" in config["learned"])
    learned += ["calls"] * ("calls" in config["learned"])
    learned += ["moments"] * (config["learned"]["moments"] > 0)
    learned += ["radius"] * (not isinstance(config["learned"]["radius"], list))  # else the cell's name says it
    sampled = model | process | {"seed": config["sample"]["seed"], "uint8": uint8_rule(config)}
    extractor = {key: config["score"][key] for key in ("protocol", "extractor") if key in config["score"]}
    return {
        "train": network,
        "textbook": process if trained else model | process,
        "teacher": pairs,
        "fit": pairs | {key: config["learned"][key] for key in learned},
        "curve": pairs | {key: config["learned"][key] for key in learned if key != "rounds"},
        "sample": sampled,
        "features": sampled | extractor | {"kept": needs_features(config)},
        "score": {"score": config["score"]},
    }[stage] | {"code": CODE[stage]}


def code_of(config: Mapping[str, Any], cell: Cell) -> dict[str, int]:
    """The state of the code of a fit, where that is more than every fit's."""
    spec = METHODS.get(cell.method)
    kinds = {"relaxed": radius_of(config, cell) > 0, "curve": bool(cell.fitted),
             "skips": spec is not None and spec.skips, "grid": spec is not None and moves_grid(spec),
             "moments": cell.learned and cell.file is None and learned_as(config, cell)["moments"] > 0}  # fmt: skip
    return {f"code_{kind}": LATER[kind] for kind, is_one in kinds.items() if is_one}


def _learned(learned: Mapping[str, Any], nfe: int, nfes: tuple[int, ...]) -> Iterator[Cell]:
    radii = learned["radius"] if isinstance(learned["radius"], list) else [None]
    for entry in learned["methods"]:
        spec: dict[str, Any] = {"name": entry} if isinstance(entry, str) else entry
        what: dict[str, Any] = {key: spec[key] for key in ("family", "order") if key in spec}
        what["settings"] = {key: spec[key] for key in SETTINGS if key in spec}
        own = [spec["radius"]] if "radius" in spec else radii
        if spec["name"] == TOGETHER:
            what["fitted"] = tuple(spec.get("fitted", nfes))
        polished = nfes if spec.get("polish") is True else spec.get("polish", ())
        for start in spec.get("starts", learned["starts"]):
            for radius, seed in product(own, learned["seeds"]):
                given = *_solver(start["solver"]), start["schedule"], nfe, seed
                yield Cell(spec["name"], *given, **what, radius=radius)
                if nfe in polished:
                    settings = what["settings"] | {POLISHED: True}
                    yield Cell(spec["name"], *given, **what | {"settings": settings}, radius=radius)


def _solver(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return entry["name"], {key: value for key, value in entry.items() if key != "name"}


def _ranges(n: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, n)) for first in range(0, n, size)]

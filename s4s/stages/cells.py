"""What a config asks for: its cells, the files they need, and the part of the config each stage depends on.

A cell is one solver that gets sampled and scored. Nothing here imports torch: Snakemake reads this on every start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from s4s.errors import Error, choose
from s4s.learn.methods import METHODS, TOGETHER

PROTOCOLS: dict[str, tuple[str, tuple[str, ...]]] = {  # rounding rule and data sets of each; see s4s.score.protocol
    "edm": ("edm", ("cifar10", "ffhq", "afhqv2")),
    "adm": ("ldm", ("lsun_bedroom", "imagenet256")),
    "torch-fidelity": ("ldm", ("cifar10",)),
    "ld3-latent": ("none", ("lsun_bedroom", "imagenet256", "mscoco")),
    "digits": ("edm", ("digits",)),
}

OF_SAMPLES = ("fid", "teacher")  # metrics that need no image of the reference
OWN = Path("methods")  # where files of methods of one's own are, beside the folder ``results``
BUILT_IN = ("teacher", "classical", TOGETHER, *METHODS)  # names that no file of one's own may have
SETTINGS = {"train": "train", "teacher_nfe": "teacher", "distance": "", "moments": "moments", "rounds": "rounds",
            "decoupled": "", "race": ""}  # fmt: skip
"""What an entry of ``learned.methods`` may have of its own, and how the names of its cells begin to say it."""
POLISHED = "polished"  # setting of the cells of s4s-any that go on from a curve
CODE = {"train": 1, "textbook": 1, "teacher": 1, "fit": 2, "sample": 1, "features": 1, "score": 2}
"""Of each stage; one more with a change of the code that changes its results, so that older ones are made again."""

LATER = {"relaxed": 2, "curve": 2, "skips": 2}
"""The same of fits with a radius, of curves and what goes on from them, and of fits that leave calls out."""


@dataclass(frozen=True)
class Cell:
    """One solver of a benchmark: a method, the (starting) solver, its schedule, the NFE and, if learned, a seed.

    ``family`` and ``order`` are those learned, where the config names them; ``radius`` is one of a list, ``settings``
    are what a method's entry has of its own (keys of ``SETTINGS``). A method of a file of one's own,
    ``methods/NAME.py``, has a start where it is fitted, and else neither solver nor schedule. A cell of s4s-any is a
    solver of a curve, and ``fitted`` the numbers of evaluations that the curve is fitted on; with the setting
    ``polished`` it is what a fit of its own goes on from there to.
    """

    method: str
    solver: str
    options: Mapping[str, Any] = field(hash=False)
    schedule: str
    nfe: int
    seed: int | None = None
    family: str | None = None
    order: int | None = None
    radius: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    fitted: tuple[int, ...] = ()

    @property
    def unseen(self) -> bool:
        """Whether it is of a curve that is not fitted on its number of evaluations."""
        return bool(self.fitted) and not self.polished and self.nfe not in self.fitted

    @property
    def polished(self) -> bool:
        """Whether it begins at a curve, and is fitted for its number of evaluations alone."""
        return POLISHED in self.settings

    @property
    def together(self) -> bool:
        """Whether its fit is that of other cells too: it is a solver of a curve, as that is."""
        return bool(self.fitted) and not self.polished

    @property
    def curve(self) -> str:
        """File name of the curve that it is a solver of or begins at, such as ``s4s-any_ipndm3_edm_seed0``."""
        settings = {key: value for key, value in self.settings.items() if key != POLISHED}
        return replace(self, settings=settings).name.replace(f"_nfe{self.nfe}", "")

    @property
    def learned(self) -> bool:
        return self.method not in ("teacher", "classical") and bool(self.solver)

    @property
    def file(self) -> Path | None:
        """The file of a method of one's own; None of those that are built in."""
        return None if self.method in BUILT_IN else OWN / f"{self.method}.py"

    @property
    def start(self) -> str:
        """Short name of the starting solver, such as ``ipndm3``; no other options have the same.

        A switch goes by its key, ``dpmpp2-singlestep`` or ``dpmpp2-lower_order_final-false``; words are the key's own.
        """
        order = self.options.get("order", "")
        rest = [(key, value) for key, value in sorted(self.options.items()) if key != "order"]
        words = [(key if value else f"{key}-false") if isinstance(value, bool) else str(value) for key, value in rest]
        return "-".join([f"{self.solver}{order}", *words])

    @property
    def kind(self) -> str:
        """The method, with the family, order and settings that its entry names, such as ``s4s-pc2-train100``."""
        tags = [(self.family or "") + str(self.order or ""), *(_tag(*each) for each in sorted(self.settings.items()))]
        return "-".join([self.method, *(tag for tag in tags if tag)])

    @property
    def name(self) -> str:
        """File name of the cell's results, such as ``s4s-alt_ipndm3_edm_nfe4_seed0``."""
        parts = [self.kind, self.start, self.schedule, f"nfe{self.nfe}"]
        parts += [] if self.radius is None else [f"r{_short(self.radius)}"]
        parts += [] if self.seed is None else [f"seed{self.seed}"]
        return "_".join(part for part in parts if part)

    @property
    def pattern(self) -> str:
        """The name with wildcards for what jobs differ in: ``{kind}_ipndm3_edm_nfe{nfe}_seed0``."""
        rest = self.name.removeprefix(self.kind).replace(f"_nfe{self.nfe}", "_nfe{nfe}")
        return ("{kind}" if self.learned else self.kind) + rest


def _tag(key: str, value: Any) -> str:
    """A setting in a file's name: ``train100``, ``l2``, ``coupled``."""
    if isinstance(value, bool):
        return key if value else f"not-{key}"
    if isinstance(value, Mapping):
        return "-".join(f"{name}{_short(weight)}" for name, weight in value.items())
    return value if isinstance(value, str) else f"{SETTINGS[key]}{_short(value)}"


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


def calls(config: Mapping[str, Any], cell: Cell) -> int:
    """Network calls of a sample: two for each guided evaluation."""
    return cell.nfe * (2 if guided(config) else 1)


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
    }[stage] | {"code": CODE[stage if stage != "curve" else "fit"]}


def code_of(config: Mapping[str, Any], cell: Cell) -> dict[str, int]:
    """The state of the code of a fit, where that is more than every fit's."""
    skips = cell.method in METHODS and METHODS[cell.method].skips
    kinds = {"relaxed": radius_of(config, cell) > 0, "curve": bool(cell.fitted), "skips": skips}
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


def _short(number: float) -> str:
    """A number in as few digits as tell it from every other."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def _ranges(n: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, n)) for first in range(0, n, size)]

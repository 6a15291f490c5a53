"""What a schema cannot say of a config: settings that go together, that do something, and that something can meet.

Nothing here imports torch: Snakemake reads this on every start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from s4s.errors import Error, choose
from s4s.learn.methods import APART, METHODS, TOGETHER, family_of, moves_grid
from s4s.stages.any_nfe import require_curve, require_of_curves
from s4s.stages.cell import BUILT_IN, SETTINGS, Cell
from s4s.stages.cells import BY_NETWORK, cells, distances, guided, teacher_of
from s4s.stages.options import OPTIONS as OPTIONS
from s4s.stages.options import evaluations_of, named_solvers, order_of, require_held, require_options
from s4s.stages.scored import require_scored

Config = Mapping[str, Any]
UNCONDITIONAL = ("lsun_bedroom",)  # kinds of latent diffusion without classes
OF_TABLES, STEPS = ("ldm", "stable-diffusion"), 1000  # models with a table of so many training steps
FITTED = (*METHODS, TOGETHER)  # methods that are built in
OF_FILE = re.compile(r"[a-z][a-z0-9_]*")  # names of methods of one's own
GITS_SEED, GITS_STEPS = 0, 60  # of the noises that grids are searched on; steps of the path it chooses from


def require_possible(config: Config) -> None:
    """Raise for a config that would fail later, or that names a setting without effect."""
    for name in ("sigma", "t"):
        low, high = (config["process"].get(f"{name}_{end}") for end in ("min", "max"))
        if low is not None and high is not None and low >= high:
            raise Error(f"process.{name}_min: {low:g} must be below {name}_max, which is {high:g}")
    for where, entry in named_solvers(config):
        require_options(where, entry)
    _require_names(config)
    _require_times(config)
    _require_published(config["model"])
    _require_classes(config["model"])
    require_scored(config)
    _require_compared(config)
    _require_learned(config)
    _require_settings(config)
    _require_cells(config)
    _require_apart(config)


def _require_names(config: Config) -> None:
    """Methods are those of the registry, or of files whose names do for a file."""
    of_file = "NAME of a file methods/NAME.py, of small letters, digits and _"
    for i, entry in enumerate(config["learned"]["methods"]):
        name = entry if isinstance(entry, str) else entry["name"]
        if name not in FITTED and (name in BUILT_IN or not OF_FILE.fullmatch(name)):
            raise Error(f"learned.methods.{i}: {choose('method', name, FITTED)}; or {of_file}")
    for i, name in enumerate(config.get("methods", [])):
        if name in BUILT_IN:
            instead = "name it in learned.methods" if name in FITTED else "rename the file"
            raise Error(f"methods.{i}: {name!r} is built in, and here are files of your own; {instead}")
        if not OF_FILE.fullmatch(name):
            raise Error(f"methods.{i}: {name!r} is not possible; give {of_file}")


def _require_times(config: Config) -> None:
    """Times that the table of training steps has, where it is known."""
    if config["model"]["type"] not in OF_TABLES:
        return
    first = 1 / STEPS
    for key, least in (("t_min", 0 < config["process"].get("t_min", 0) < first * (1 - 1e-9)),
                       ("t_max", config["process"].get("t_max", 1) <= first)):  # fmt: skip
        if least:
            raise Error(f"process.{key}: {config['process'][key]:g} is below what the model has, {STEPS} times from "
                        f"{first:g} to 1")  # fmt: skip


def _require_cells(config: Config) -> None:
    """Options per solver, orders the NFE leaves room for, no cell twice, in the same words or in others."""
    usual = [teacher_of(config, nfe) for nfe in config["nfe"]]
    seen: set[str] = set()
    rows: dict[tuple[Any, ...], str] = {}
    for made in cells(config):
        if made.name in seen:
            raise Error(f"the config asks twice for cell {made.name!r}; remove one of its solvers, schedules or starts")
        seen.add(made.name)
        if not made.solver:
            continue
        place = {"teacher": "teacher." if made in usual else "learned.methods: teacher_"}.get(made.method, "")
        nfe = f"{place}nfe: {made.nfe}"
        if made.options.get("order", 1) > made.nfe:
            raise Error(f"{nfe} is too few for {made.start}: an order above the number of steps has no history")
        if made.solver == "heun" and made.nfe % 2:
            raise Error(f"{nfe} is odd, and heun spends two evaluations a step; choose an even one or drop heun")
        if made.nfe % evaluations_of(made):
            raise Error(f"{nfe} is no multiple of {evaluations_of(made)}, the evaluations of a step of {made.start}")
        if made.schedule == "ays" and config["model"]["type"] != "stable-diffusion":
            raise Error("schedule ays: its table is of Stable Diffusion 1.x, so it needs model.type stable-diffusion")
        if made.schedule == "gits" and made.nfe // evaluations_of(made) > GITS_STEPS:
            raise Error(f"schedule gits: it chooses from {GITS_STEPS} steps, too few for {made.nfe} evaluations of "
                        f"{made.start}; take another schedule")  # fmt: skip
        if made.fitted:
            require_curve(config, made, order_of(made), evaluations_of(made))
        elif made.learned and made.file is None:
            require_held(made)
        if (other := rows.setdefault(_row(made), made.name)) != made.name:
            raise Error(f"learned.methods: {made.name} and {other} are the same, in other words; remove one entry")


def _row(cell: Cell) -> tuple[Any, ...]:
    """What tells a cell from the others of its table, as its metrics file says it."""
    family = family_of(cell.method, cell.family) if cell.method in METHODS else cell.family
    order, settings = cell.order or cell.options.get("order"), json.dumps(cell.settings, sort_keys=True)
    return cell.method, cell.start, cell.schedule, cell.nfe, cell.seed, family, order, cell.radius, settings


def _require_published(model: Mapping[str, Any]) -> None:
    """A network has one place to come from, and only custom networks have sizes."""
    for key in ("weights", "first_stage"):
        if key in model and ("url" in model[key]) == ("path" in model[key]):
            raise Error(f"model.{key}: needs either 'url' or 'path'")
    if model["type"] == "ldm" and (model["kind"] == "custom") != ("sizes" in model):
        raise Error("model.kind: 'custom', and no other kind, needs 'sizes', those of the networks")
    if model["type"] == "diffusers" and ("path" in model) == ("id" in model):
        raise Error("model: a diffusers model needs either 'path', a local folder, or 'id', a repository")
    if "path" in model and (other := next((key for key in ("id", "revision") if key in model), None)):
        raise Error(f"model.{other}: it has no effect beside 'path', the folder that is read; leave one out")


def _require_classes(model: Mapping[str, Any]) -> None:
    """Guidance and class plans only where there are classes, as far as the config tells; the loader knows the rest."""
    kind, classes = model.get("kind"), model.get("sizes", {}).get("classes")
    if kind in UNCONDITIONAL or (kind == "custom" and not classes):
        given = next((key for key in ("guidance", "classes", "class_seed") if model.get(key) is not None), None)
        if given:
            raise Error(f"model.{given}: it needs a class-conditional model, and {kind} has no classes; leave it out")
    if model["type"] == "digits":
        own = next((key for key in ("guidance", "class_seed", "label_dropout") if model.get(key) is not None), None)
        if own and "classes" not in model:
            raise Error(f"model.{own}: it needs a class-conditional network; set model.classes, or leave it out")
        if isinstance(model.get("guidance"), list) and not model["guidance"][0] < model["guidance"][1]:
            raise Error(f"model.guidance: {model['guidance']} is no range; give the lower scale first, or one scale")
        if "autoencoder_steps" in model and "latents" not in model:
            raise Error("model.autoencoder_steps: it has no effect without latents; leave it out")
    if "class_seed" in model and model.get("classes") != "random":
        raise Error("model.class_seed: it has no effect unless 'classes' is random; leave it out")


def _require_compared(config: Config) -> None:
    """Distances, of all fits and of an entry's own, that compare what the model makes."""
    model, space = config["model"], config["learned"].get("space")
    digits = model["type"] == "digits"
    for where, spec in distances(config).items():
        if isinstance(spec, Mapping) and not any(spec.values()):
            raise Error(f"{where}: all weights are 0, so there is nothing to fit; give one of them a weight")
        if "lpips" in spec and (digits or (model["type"] == "stable-diffusion" and space == "latents")):
            raise Error(f"{where}: lpips compares images of 3 channels; use l2"
                        + ("" if digits else ", or set learned.space to images"))  # fmt: skip
        if "feature" in spec and not digits:
            raise Error(f"{where}: feature uses a network that only model type digits trains; use l2 or lpips")
        if "feature" in spec and "latents" in model and space != "images":
            raise Error(f"{where}: feature compares images, and this model has latents: set learned.space to images")


def _require_learned(config: Config) -> None:
    """Every method has a start, settings that it takes, and settings of times have times to act on."""
    learned = config["learned"]
    names = []
    for entry in learned["methods"]:
        spec = {"name": entry} if isinstance(entry, str) else entry
        names.append(spec["name"])
        require_of_curves(config, spec)
        if spec["name"] not in FITTED and (given := {*spec} - {"name", "starts"}):
            raise Error(f"learned.methods: {spec['name']}, of a file of your own, takes no {min(given)}; leave it out")
        if not spec.get("starts", learned["starts"]):
            raise Error(f"learned.starts: method {spec['name']} has nothing to start from; give it starts, or drop it")
    _require_guidance(config, names)
    if "convert" in learned and not any(_moves_times(name) for name in names):
        raise Error("learned.convert: it has no effect, since no method here learns times; leave it out")


def _require_guidance(config: Config, methods: list[str]) -> None:
    """Methods that learn guidance have some, and a budget of calls has a method that it holds for."""
    known = {name: METHODS[name] for name in methods if name in METHODS}
    own = [name for name, spec in known.items() if spec.family in APART]
    if own and not guided(config):
        raise Error(f"learned.methods: {own[0]} learns guidance, and this model has none; set model.guidance")
    if own and isinstance(config["model"].get("guidance"), list):
        raise Error(f"learned.methods: {own[0]} starts from one scale of guidance, and model.guidance is a range; "
                    "leave one of them out")  # fmt: skip
    if "calls" in config["learned"] and not any(spec.skips for spec in known.values()):
        raise Error("learned.calls: it has no effect without method s4s-cfg-skip; leave it out")


def _moves_times(method: str) -> bool:
    """Whether the levels that the network is told are learned apart from the grid's; a curve has no convert."""
    spec = METHODS.get(method)
    if spec is None:
        return method != TOGETHER  # of one's own: nobody knows
    both = [spec] if spec.first is None else [spec, METHODS[spec.first]]
    return any("shift" in block for each in both for block in each.cycle)


def _require_settings(config: Config) -> None:
    """Settings of a method's entry that its teacher and the others leave room for."""
    learned = config["learned"]
    for entry in learned["methods"]:
        spec = {} if isinstance(entry, str) else entry
        if spec.get("moments", learned["moments"]) and "microbatch" in learned:
            where = f"learned.methods {spec['name']}" if "moments" in spec else "learned"
            raise Error(f"{where}.moments: they are of whole batches; leave out learned.microbatch, or moments")
        if "radius" in spec and not isinstance(learned["radius"], list) and learned["radius"] > 0:
            raise Error(f"learned.methods {spec['name']}.radius: results of other methods would not say their radius, "
                        f"{learned['radius']:g}; write learned.radius as a list, [{learned['radius']:g}]")  # fmt: skip
        own = sorted({*spec} & {*SETTINGS, "radius"})
        if own and spec["name"] == TOGETHER:
            raise Error(f"learned.methods: {TOGETHER} takes no {own[0]} of its own; leave it out")
        if spec.get("train", 0) > config["teacher"]["train"]:
            raise Error(f"learned.methods {spec['name']}.train: {spec['train']} is more than teacher.train, "
                        f"{config['teacher']['train']}")  # fmt: skip
        if spec.get("decoupled") is False and not _moves_times(spec["name"]):
            raise Error(f"learned.methods {spec['name']}.decoupled: it learns no times; leave it out")
        if spec.get("race") is False and not moves_grid(METHODS[spec["name"]]):
            raise Error(f"learned.methods {spec['name']}.race: it begins at its start alone anyway; leave it out")


def _require_apart(config: Config) -> None:
    """Samples are scored on other noises than a solver was fitted, or its grid searched, on."""
    seed, teacher = config["sample"]["seed"], config["teacher"]["seed"]
    if seed == teacher:
        raise Error(f"sample.seed: {seed} is teacher.seed too, so solvers would be scored on the noises that they were "
                    "fitted on; choose another")  # fmt: skip
    for schedule in sorted({cell.schedule for cell in cells(config)} & {*BY_NETWORK}):
        if seed == GITS_SEED:
            raise Error(
                f"sample.seed: {seed} is the seed of the noises that {schedule} searches its grid on; choose another"
            )

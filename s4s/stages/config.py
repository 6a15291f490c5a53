"""One benchmark, one YAML file, one schema: reading it and checking it.

Nothing here imports torch: Snakemake reads this on every start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from s4s.errors import Error
from s4s.files import write_text
from s4s.learn.methods import family_of
from s4s.stages.cells import PROTOCOLS, Cell, cells

SCHEMA = Path(__file__).with_name("config.schema.yaml")
OF_STATISTICS = ("edm", "adm", "ld3-latent")  # protocols whose known references are files of mu and sigma
OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {  # what each solver takes; a test holds it to the registry
    "ddim": {},
    "deis": {"order": (1, 2, 3, 4), "variant": ("rhoab", "tab")},
    "dpmpp": {
        "order": (1, 2, 3),
        "variant": ("midpoint", "taylor"),
        "prediction": ("x0", "eps"),
        "lower_order_final": (True, False),
        "singlestep": (True, False),
    },
    "heun": {},
    "ipndm": {"order": (1, 2, 3, 4)},
    "unipc": {
        "order": (1, 2, 3),
        "variant": ("bh1", "bh2"),
        "prediction": ("x0", "eps"),
        "lower_order_final": (True, False),
    },
}


def load(path: str | Path) -> dict[str, Any]:
    """Read and check a config file; defaults are filled in from the schema.

    Raises:
        Error: unreadable, not YAML, or a key the schema refuses; one line naming key, value and choices.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Error(f"{path}: cannot read the config: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise Error(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return check(config)
    except Error as error:
        raise Error(f"{path}: {error}") from error


def check(config: Any) -> dict[str, Any]:
    """Validate a config against the schema and fill in its defaults. Returns a new dict."""
    from jsonschema import Draft202012Validator

    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    filled = _with_defaults(schema, config, schema)
    errors = sorted(Draft202012Validator(schema).iter_errors(filled), key=lambda e: (len(e.path), str(list(e.path))))
    if errors:
        raise Error(_line(errors[0]))
    _require_possible(filled)
    return filled


def save(config: Mapping[str, Any], path: str | Path) -> None:
    """Write the effective config, unless the file already says the same."""
    text = yaml.safe_dump(dict(config), sort_keys=False)
    if not Path(path).exists() or Path(path).read_text(encoding="utf-8") != text:
        write_text(Path(path), text)


def digest(value: Any) -> str:
    """SHA-256 of a config or a part of it, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _with_defaults(schema: Any, value: Any, root: Mapping[str, Any]) -> Any:
    """A copy of value with the schema's defaults for missing keys, all the way down."""
    from jsonschema import Draft202012Validator

    schema = _resolved(schema, root)
    for case in schema.get("allOf", []):
        if Draft202012Validator(case["if"]).is_valid(value):
            value = _with_defaults(case["then"], value, root)
    if isinstance(value, list):
        return [_with_defaults(schema.get("items", {}), item, root) for item in value]
    if not isinstance(value, dict):
        return value
    rules = {key: _resolved(rule, root) for key, rule in schema.get("properties", {}).items()}
    filled = {key: rule["default"] for key, rule in rules.items() if "default" in rule and key not in value}
    return {key: _with_defaults(rules.get(key, {}), item, root) for key, item in {**value, **filled}.items()}


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema behind a reference; one that allows anything is empty."""
    if schema is True:
        return {}
    return root["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def _line(error: Any) -> str:
    """One line for a schema violation: the key, the value, the choices."""
    where = ".".join(str(part) for part in error.absolute_path) or "the config"
    if error.validator == "additionalProperties":
        known = ", ".join(sorted(error.schema["properties"]))
        unknown = sorted(set(error.instance) - set(error.schema["properties"]))
        return f"{where}: unknown key {unknown[0]!r}; choose one of: {known}"
    if error.validator == "enum":
        return (
            f"{where}: {error.instance!r} is not possible; choose one of: {', '.join(map(str, error.validator_value))}"
        )
    if error.validator == "required":
        return f"{where}: {error.message}"
    hint = error.schema.get("description", "")
    return f"{where}: {error.message}" + (f" ({hint})" if hint else "")


def _require_possible(config: Mapping[str, Any]) -> None:
    """What a schema cannot say: options per solver, orders the NFE leaves room for, levels that fall, no cell twice."""
    for name in ("sigma", "t"):
        low, high = (config["process"].get(f"{name}_{end}") for end in ("min", "max"))
        if low is not None and high is not None and low >= high:
            raise Error(f"process.{name}_min: {low:g} must be below {name}_max, which is {high:g}")
    _require_published(config["model"])
    _require_scored(config)
    seen: set[str] = set()
    for made in cells(config):
        for key, value in made.options.items():
            known = OPTIONS[made.solver]
            if key not in known:
                raise Error(f"{made.solver}: unknown option {key!r}; choose one of: {', '.join(known) or 'none'}")
            if value not in known[key]:
                raise Error(
                    f"{made.solver}.{key}: {value!r} is not possible; choose one of: {', '.join(map(str, known[key]))}"
                )
        if made.options.get("order", 1) > made.nfe:
            raise Error(
                f"nfe: {made.nfe} is too few for {made.start}: an order above the number of steps has no history"
            )
        if made.solver == "heun" and made.nfe % 2:
            raise Error(
                f"nfe: {made.nfe} is odd, and heun spends two evaluations a step; choose an even one or drop heun"
            )
        if made.nfe % _evaluations(made):
            raise Error(
                f"nfe: {made.nfe} is no multiple of {_evaluations(made)}, the evaluations of a step of {made.start}"
            )
        if made.schedule == "ays" and config["model"]["type"] != "stable-diffusion":
            raise Error("schedule ays: its table is of Stable Diffusion 1.x, so it needs model.type stable-diffusion")
        if made.learned:
            require_held(made)
        if made.name in seen:
            raise Error(f"the config asks twice for cell {made.name!r}; remove one of its solvers, schedules or starts")
        seen.add(made.name)


def require_held(cell: Cell) -> None:
    """The family of a learned cell can start at its solver; a test holds these rules to the families themselves."""
    where = f"learned.methods {cell.kind} from {cell.start}"
    family, unipc = family_of(cell.method, cell.family), cell.solver == "unipc"
    order, inside = _order(cell), _evaluations(cell)
    least = {"lms": order + unipc, "pc": max(order - 1 + unipc, 1), "ss": 1}.get(family)
    if cell.order is not None and least is None:
        raise Error(f"{where}: family {family} has no order")
    if cell.order is not None and not min(least or 1, cell.nfe) <= cell.order <= cell.nfe:
        raise Error(f"{where}: order {cell.order} is not possible at nfe {cell.nfe}; choose {least} to {cell.nfe}")
    if family != "ss" and (cell.solver == "heun" or (inside > 1 and family in ("classical", "guided"))):
        raise Error(f"{where}: it has several evaluations a step; choose family ss")
    keeps_to_itself = cell.order in (None, inside) if inside > 1 else order == 1 and not unipc
    if family == "ss" and not keeps_to_itself and (cell.order != cell.nfe or cell.solver == "heun"):
        raise Error(f"{where}: a step of ss uses no output of earlier steps; start from ddim with any order, or from "
                    "heun or dpmpp with singlestep: true with their own")  # fmt: skip


def _order(cell: Cell) -> int:
    """Order of a cell's solver; outputs that a multistep one uses."""
    default = {"dpmpp": 3, "deis": 3, "ipndm": 3, "unipc": 3, "heun": 2}.get(cell.solver, 1)
    order: int = cell.options.get("order", default)
    return order


def _evaluations(cell: Cell) -> int:
    """Evaluations a step."""
    return _order(cell) if cell.solver == "heun" or cell.options.get("singlestep") else 1


def _require_published(model: Mapping[str, Any]) -> None:
    """Each published file has one place to come from, and only custom networks have sizes."""
    for key in ("weights", "first_stage"):
        if key in model and ("url" in model[key]) == ("path" in model[key]):
            raise Error(f"model.{key}: needs either 'url' or 'path'")
    if model["type"] == "ldm" and (model["kind"] == "custom") != ("sizes" in model):
        raise Error("model.kind: 'custom', and no other kind, needs 'sizes', those of the networks")
    if model["type"] == "diffusers" and ("path" in model) == ("id" in model):
        raise Error("model: a diffusers model needs either 'path', a local folder, or 'id', a repository")


def _require_scored(config: Mapping[str, Any]) -> None:
    """A protocol with a reference that its metrics can use, and an objective that fits can take."""
    score, learned = config["score"], config["learned"]
    known = PROTOCOLS[score["protocol"]][1]
    if "data" in score and score["data"] not in known:
        raise Error(f"score.data: protocol {score['protocol']!r} has no reference for {score['data']!r}; choose one "
                    f"of: {', '.join(known)}, or give a 'reference' of your own")  # fmt: skip
    if "data" not in score and "reference" not in score:
        raise Error(f"score: needs 'data', one of {', '.join(known)}, or a 'reference' of your own")
    if "fid" not in score["metrics"]:
        raise Error("score.metrics: fid must be among them")
    own = score.get("reference", {}).get("kind")
    if len(score["metrics"]) > 1 and (own == "npz" or (own is None and score["protocol"] in OF_STATISTICS)):
        raise Error("score.metrics: kid and precision-recall compare with images; this reference holds statistics only")
    of_digits = "feature" in learned["distance"] or score["protocol"] == "digits"
    if of_digits and config["model"]["type"] != "digits":
        raise Error("learned.distance feature and protocol digits use networks that only model type digits trains")
    if learned["moments"] and "microbatch" in learned:
        raise Error("learned.moments: they are of whole batches; leave out learned.microbatch, or moments")

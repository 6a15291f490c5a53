"""One benchmark, one YAML file, one schema: reading it, checking it, and the list of cells it asks for.

A cell is one solver that gets sampled and scored. Nothing here imports torch: Snakemake reads this on every start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from s4s.errors import Error
from s4s.files import write_text

SCHEMA = Path(__file__).with_name("config.schema.yaml")
OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {  # what each solver takes; a test holds it to the registry
    "ddim": {},
    "deis": {"order": (1, 2, 3, 4), "variant": ("rhoab", "tab")},
    "dpmpp": {
        "order": (1, 2, 3),
        "variant": ("midpoint", "taylor"),
        "prediction": ("x0", "eps"),
        "lower_order_final": (True, False),
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


@dataclass(frozen=True)
class Cell:
    """One solver of a benchmark: a method, the (starting) solver, its schedule, the NFE and, if learned, a seed."""

    method: str
    solver: str
    options: Mapping[str, Any] = field(hash=False)
    schedule: str
    nfe: int
    seed: int | None = None

    @property
    def learned(self) -> bool:
        return self.method not in ("teacher", "classical")

    @property
    def start(self) -> str:
        """Short name of the starting solver, such as ``ipndm3``."""
        order = self.options.get("order", "")
        extra = [f"-{value}" for key, value in self.options.items() if key != "order"]
        return f"{self.solver}{order}{''.join(extra)}"

    @property
    def name(self) -> str:
        """File name of the cell's results, such as ``s4s-alt_ipndm3_edm_nfe4_seed0``."""
        parts = [self.method, self.start, self.schedule, f"nfe{self.nfe}"]
        return "_".join(parts if self.seed is None else [*parts, f"seed{self.seed}"])

    @property
    def group(self) -> str:
        """Cells that one job samples and scores together: a job must be longer than its start."""
        return self.method if self.method == "teacher" else f"{self.method}_nfe{self.nfe}"


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


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """Every cell of a benchmark, in the order of the tables."""
    teacher = config["teacher"]
    made = [Cell("teacher", *_solver(teacher["solver"]), teacher["schedule"], teacher["nfe"])]
    for nfe in config["nfe"]:
        for solver in config["classical"]["solvers"]:
            made += [Cell("classical", *_solver(solver), s, nfe) for s in config["classical"]["schedules"]]
        for method in config["learned"]["methods"]:
            for start in config["learned"]["starts"]:
                made += [
                    Cell(method, *_solver(start["solver"]), start["schedule"], nfe, seed)
                    for seed in config["learned"]["seeds"]
                ]
    return made


def cell(config: Mapping[str, Any], name: str) -> Cell:
    """The cell of that name."""
    for candidate in cells(config):
        if candidate.name == name:
            return candidate
    raise Error(f"no cell {name!r} in benchmark {config['benchmark']!r}; `s4s cells CONFIG` lists them")


def groups(config: Mapping[str, Any]) -> dict[str, list[Cell]]:
    """Cells by the job that samples and scores them."""
    made: dict[str, list[Cell]] = {}
    for candidate in cells(config):
        made.setdefault(candidate.group, []).append(candidate)
    return made


def shards(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """First and last (exclusive) sample index of every shard."""
    n, size = config["sample"]["n"], config["sample"]["shard_size"]
    return [(first, min(first + size, n)) for first in range(0, n, size)]


def made_from(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The part of the config that a stage's result depends on."""
    model, process = {"model": config["model"]}, {"process": config["process"]}
    pairs = model | process | {"teacher": config["teacher"]}
    return {
        "train": model,
        "textbook": process,
        "teacher": pairs,
        "fit": pairs | {key: config["learned"][key] for key in ("distance", "radius", "rounds")},
        "sample": model | process | {key: config["sample"][key] for key in ("seed", "uint8")},
    }[stage]


def save(config: Mapping[str, Any], path: str | Path) -> None:
    """Write the effective config, unless the file already says the same."""
    text = yaml.safe_dump(dict(config), sort_keys=False)
    if not Path(path).exists() or Path(path).read_text(encoding="utf-8") != text:
        write_text(Path(path), text)


def digest(value: Any) -> str:
    """SHA-256 of a config or a part of it, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _solver(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return entry["name"], {key: value for key, value in entry.items() if key != "name"}


def _with_defaults(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> Any:
    """A copy of value with the schema's defaults for missing keys, all the way down."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, dict):
        rules = schema.get("properties", {})
        filled = {key: rule["default"] for key, rule in rules.items() if "default" in rule and key not in value}
        merged = {**value, **filled}
        return {key: _with_defaults(rules.get(key, {}), item, root) for key, item in merged.items()}
    if isinstance(value, list):
        return [_with_defaults(schema.get("items", {}), item, root) for item in value]
    return value


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
    low, high = config["process"]["sigma_min"], config["process"]["sigma_max"]
    if low >= high:
        raise Error(f"process.sigma_min: {low:g} must be below sigma_max, which is {high:g}")
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
        if made.name in seen:
            raise Error(f"the config asks twice for cell {made.name!r}; remove one of its solvers, schedules or starts")
        seen.add(made.name)

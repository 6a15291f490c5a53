"""Bundles: solvers of one model for several numbers of evaluations, in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any

from s4s.curve import SCHEMA as CURVE_SCHEMA
from s4s.curve import Curve, curve_from_dict
from s4s.errors import Error
from s4s.files import at_home, read_json, write_text
from s4s.solver import SCHEMA as SOLVER_SCHEMA
from s4s.solver import Solver, require_solver, solver_from_dict
from s4s.values import dumps, record_text, require_record

SCHEMA = "s4s-bundle"
SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Bundle(Mapping[int, Solver]):
    """Number of evaluations -> its solver, rising: ``bundle[6]``.

    Args:
        solvers: the solvers, each under its own number.
        provenance: JSON-able record of what they have in common.

    Raises:
        Error: none, or a solver under another number than its own.
    """

    solvers: Mapping[int, Solver]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_record("bundle", self.provenance)
        if not isinstance(self.solvers, Mapping):
            raise Error(f"a bundle is of numbers of evaluations and their solvers, {{4: solver}}, got a "
                        f"{type(self.solvers).__name__}")  # fmt: skip
        if not self.solvers:
            raise Error("a bundle needs at least one solver")
        for nfe, solver in self.solvers.items():
            require_solver(solver)
            if solver.nfe != nfe:
                raise Error(f"{solver.name} makes {solver.nfe} evaluations, but is in the bundle for {nfe!r}")
        object.__setattr__(self, "solvers", {int(nfe): self.solvers[nfe] for nfe in sorted(self.solvers)})

    def __getitem__(self, nfe: int) -> Solver:
        if nfe not in self.solvers:
            raise Error(f"no solver makes {nfe!r} evaluations here, only {self.numbers}")
        return self.solvers[nfe]

    def __contains__(self, nfe: object) -> bool:
        return nfe in self.solvers

    def get(self, nfe: int, default: Any = None) -> Any:
        """The solver of a number of evaluations, or ``default``."""
        return self.solvers.get(nfe, default)

    def __iter__(self) -> Iterator[int]:
        return iter(self.solvers)

    def __len__(self) -> int:
        return len(self.solvers)

    @property
    def numbers(self) -> str:
        """The numbers of evaluations, for messages."""
        return ", ".join(map(str, self.solvers))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; floats survive exactly."""
        solvers = [solver.to_dict() for solver in self.solvers.values()]
        head = {"schema": SCHEMA, "version": SCHEMA_VERSION, "nfe": list(self.solvers)}
        return head | {"solvers": solvers, "provenance": dict(self.provenance)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, one matrix row a line. The file appears whole or not at all."""
        data = self.to_dict()
        solvers = ",\n".join(indent(dumps(solver).rstrip(), "    ") for solver in data.pop("solvers"))
        lines = [f"  {json.dumps(key)}: {record_text(value)}" for key, value in data.items()]
        lines.insert(-1, f'  "solvers": [\n{solvers}\n  ]')
        write_text(at_home(path), "{\n" + ",\n".join(lines) + "\n}\n")


def load_bundle(path: str | os.PathLike[str]) -> Bundle | Curve:
    """Read a bundle saved by ``Bundle.save``, a curve, or a solver file as a bundle of one.

    Raises:
        Error: the file is missing, is not JSON, is of another schema, or holds what is not a solver.
    """
    data = read_json(path)
    try:
        return bundle_from_dict(data)
    except Error as error:
        raise Error(f"{path}: {error}") from error


def bundle_from_dict(data: Any) -> Bundle | Curve:
    """Inverse of ``Bundle.to_dict``; takes what ``Solver.to_dict`` and ``Curve.to_dict`` give too."""
    if isinstance(data, dict) and data.get("schema") == SOLVER_SCHEMA:
        solver = solver_from_dict(data)
        return Bundle({solver.nfe: solver})
    if isinstance(data, dict) and data.get("schema") == CURVE_SCHEMA:
        return curve_from_dict(data)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        kinds = f"{SCHEMA}, {SOLVER_SCHEMA} or {CURVE_SCHEMA}"
        raise Error(f"not an {kinds} file: the key 'schema' must name one of them")
    if data.get("version") != SCHEMA_VERSION:
        raise Error(f"bundle schema version {data.get('version')!r} is not supported; this s4s reads {SCHEMA_VERSION}")
    if not isinstance(data.get("solvers"), list) or not isinstance(data.get("provenance", {}), dict):
        raise Error("'solvers' must be a list and 'provenance' an object")
    solvers = [solver_from_dict(each) for each in data["solvers"]]
    made = {solver.nfe: solver for solver in solvers}
    if len(made) < len(solvers):
        raise Error("two solvers of the bundle make the same number of evaluations")
    return Bundle(made, data.get("provenance", {}))

"""What solvers take in a config, and which families can start at them. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from s4s.errors import Error
from s4s.learn.methods import APART, family_of
from s4s.stages.cell import Cell

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


def named_solvers(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every solver that a config names, and its place in it."""
    yield "teacher.solver", config["teacher"]["solver"]
    for i, entry in enumerate(config["classical"]["solvers"]):
        yield f"classical.solvers.{i}", entry
    learned = config["learned"]
    starts = {"learned.starts": learned["starts"]} | {
        f"learned.methods.{i}.starts": entry.get("starts", [])
        for i, entry in enumerate(learned["methods"])
        if not isinstance(entry, str)
    }
    for where, entries in starts.items():
        for i, entry in enumerate(entries):
            yield f"{where}.{i}.solver", entry["solver"]


def require_options(where: str, entry: Mapping[str, Any]) -> None:
    """A solver's options are known, possible, and of use to each other.

    Args:
        where: place of the entry in the config.
        entry: name and options.
    """
    name, known = entry["name"], OPTIONS[entry["name"]]
    given = {key: value for key, value in entry.items() if key != "name"}
    for key, value in given.items():
        if not known:
            raise Error(f"{where}: {name} has no options; leave out {key!r}")
        if key not in known:
            raise Error(f"{where}: {name} has no option {key!r}; choose one of: {', '.join(known)}")
        if value not in known[key]:
            choices = ", ".join(str(choice).lower() for choice in known[key])
            raise Error(f"{where}.{key}: {value!r} is not possible for {name}; choose one of: {choices}")
    if given.get("variant") == "taylor" and (order := _order(name, given)) != 2:
        raise Error(f"{where}.variant: taylor exists at order 2 only, not at order {order}")
    if given.get("singlestep") and "lower_order_final" in given:
        raise Error(f"{where}.lower_order_final: it means nothing with singlestep: true; leave it out")


def require_held(cell: Cell) -> None:
    """The family of a learned cell can start at its solver; a test holds these rules to the families themselves."""
    where = f"learned.methods {cell.kind} from {cell.start}"
    try:
        family = family_of(cell.method, cell.family)
    except Error as error:
        raise Error(f"learned.methods: {error}") from error
    unipc, order, inside = cell.solver == "unipc", order_of(cell), evaluations_of(cell)
    least = {"lms": order + unipc, "pc": max(order - 1 + unipc, 1), "ss": 1}.get("lms" if family in APART else family)
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


def order_of(cell: Cell) -> int:
    """Order of a cell's solver; outputs that a multistep one uses."""
    return _order(cell.solver, cell.options)


def evaluations_of(cell: Cell) -> int:
    """Evaluations a step."""
    return order_of(cell) if cell.solver == "heun" or cell.options.get("singlestep") else 1


def _order(solver: str, options: Mapping[str, Any]) -> int:
    default = {"dpmpp": 3, "deis": 3, "ipndm": 3, "unipc": 3, "heun": 2}.get(solver, 1)
    order: int = options.get("order", default)
    return order

"""Run every example and write the table of docs/homes.md: python examples/table.py [NAME ...] for some of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from compare import CALLS, Row, show

EXAMPLES = ["with_azula", "with_sbi", "with_flow_matching", "with_torchcfm", "with_denoising_diffusion_pytorch",
            "with_k_diffusion", "physics"]  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "homes.md"
HEAD = f"| model | prediction | many steps | own best of {CALLS} calls | learned | ratio |"


def line(row: Row) -> str:
    figures = f"{row.prediction:.0e} | {row.many:.1e} | {row.best} {row.own:.3g} | {row.learned:.3g}"
    return f"| {row.home} | {figures} | {row.learned / row.own:.2f} |"


def lines(page: str) -> dict[str, str]:
    """The table's rows, by model."""
    table = page.split(HEAD)[1].split("\n\n")[0].splitlines()[2:]
    return {each.split(" | ")[0].removeprefix("| "): each for each in table}


def main(names: list[str]) -> None:
    """Run some of the examples; rows of the others stay."""
    rows = [row for name in names for row in show(importlib.import_module(name).HOMES, Path("homes"))]
    page = PAGE.read_text()
    before = lines(page)
    after = before | {row.home: line(row) for row in rows}
    top = f"{HEAD}\n|---|---|---|---|---|---|"
    PAGE.write_text(page.replace("\n".join([top, *before.values()]), "\n".join([top, *after.values()])))


if __name__ == "__main__":
    main(sys.argv[1:] or EXAMPLES)

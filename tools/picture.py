"""Solvers as pictures of their tables, in SVG: `python tools/picture.py SOLVER > docs/images/table-learned.svg`."""

from __future__ import annotations

import sys

import s4s

CELL, LEFT, TOP, EDGE = 54, 100, 60, 14  # pixels
MOST = 1.2  # a weight of this size or more has the full colour


def picture(solver: s4s.Solver) -> str:
    """A row a state, a column for the noise and for each output of the network, a coloured number a coefficient."""
    width, height = LEFT + CELL * (solver.nfe + 1) + EDGE, TOP + CELL * solver.nfe + EDGE
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
             f'height="{height}" font-family="sans-serif" font-size="13" text-anchor="middle" fill="#222">',
             f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
             f'<text x="{width / 2:g}" y="24" font-size="16" font-weight="bold">{solver.name}</text>']  # fmt: skip
    heads = ["x_T", *(f"D[{j}]" for j in range(solver.nfe))]
    lines += [text(LEFT + CELL * (k + 0.5), TOP - 10, head) for k, head in enumerate(heads)]
    for n in range(1, solver.nfe + 1):
        lines += row(solver, n, TOP + CELL * (n - 1))
    return "\n".join([*lines, "</svg>", ""])


def row(solver: s4s.Solver, n: int, y: int) -> list[str]:
    """State ``n``: its level, and its coefficients."""
    lines = [text(LEFT / 2, y + CELL / 2 - 4, f"x[{n}]", "bold"),
             text(LEFT / 2, y + CELL / 2 + 13, f"sigma {solver.sigma[n]:.3g}")]  # fmt: skip
    for k, value in enumerate([solver.start[n].item(), *solver.weight[n, :n].tolist()]):
        x, strength = LEFT + CELL * k, min(abs(value) / MOST, 1)
        colour = "#7f7f7f" if k == 0 else "#d55e00" if value < 0 else "#0072b2"
        lines.append(f'<rect x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}" rx="4" fill="{colour}" '
                     f'fill-opacity="{0.08 + 0.72 * strength:.2f}"/>')  # fmt: skip
        lines.append(text(x + CELL / 2, y + CELL / 2 + 5, f"{value:.3f}" if k == 0 else f"{value:+.2f}"))
    return lines


def text(x: float, y: float, words: str, weight: str = "normal") -> str:
    """Words around a point."""
    return f'<text x="{x:g}" y="{y:g}" font-weight="{weight}">{words}</text>'


if __name__ == "__main__":
    print(picture(s4s.load_solver(sys.argv[1])), end="")

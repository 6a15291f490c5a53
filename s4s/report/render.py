"""A table as Markdown, LaTeX (booktabs) or HTML. Knows nothing about FID."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from s4s.files import write_text
from s4s.report.data import write_csv


@dataclass(frozen=True)
class Cell:
    """One entry: its text, a smaller remark after it, how it is set off, and of which cell of the results it tells."""

    text: str = ""
    remark: str = ""
    bold: bool = False
    underline: bool = False
    of: str = ""


@dataclass(frozen=True)
class Table:
    """What a table says, before it is Markdown, LaTeX or HTML.

    Args:
        title: the caption's first sentence.
        head: column names.
        groups: blocks of rows separated by a rule; a row has one cell a column.
        notes: sentences under the table.
        names: how many leading columns hold names (left-aligned); the others hold numbers (right-aligned).
    """

    title: str
    head: tuple[str, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    notes: tuple[str, ...] = ()
    names: int = 1


def write_table(table: Table, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """Write a table as ``stem.md`` and ``stem.tex``, and its numbers in full precision as ``stem.csv``."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("csv", "md", "tex")]
    write_csv(frame, paths[0])
    write_text(paths[1], markdown(table))
    write_text(paths[2], tex(table))
    return paths


def markdown(table: Table) -> str:
    """GitHub Markdown, with the title above and the notes below."""
    align = [":--"] * table.names + ["--:"] * (len(table.head) - table.names)
    lines = [_md_row(map(_md, table.head)), _md_row(align)]
    lines += [_md_row(_md_cell(cell) for cell in row) for group in table.groups for row in group]
    notes = "\n".join(f"- {_md(note)}" for note in table.notes)
    return f"**{_md(table.title)}**\n\n" + "\n".join(lines) + "\n\n" + notes + "\n"


def tex(table: Table) -> str:
    """A LaTeX ``table`` for ``\\usepackage{booktabs}``; groups are separated by ``\\midrule``."""
    caption = escape_tex(" ".join([table.title, *table.notes]))
    align = "l" * table.names + "r" * (len(table.head) - table.names)
    groups = ["\n".join(" & ".join(map(_tex_cell, row)) + r" \\" for row in group) for group in table.groups]
    body = "\n\\midrule\n".join([" & ".join(map(escape_tex, table.head)) + r" \\", *groups])
    return (
        "% needs \\usepackage{booktabs}\n"
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\begin{{tabular}}{{{align}}}\n"
        f"\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def to_html(table: Table) -> str:
    """An HTML ``table`` with its caption; the notes follow as paragraphs."""
    kinds = [' class="names"'] * table.names + [""] * (len(table.head) - table.names)
    columns = zip(kinds, table.head, strict=True)
    head = "".join(f'<th scope="col"{kind}>{html.escape(name)}</th>' for kind, name in columns)
    body = "".join(
        f"<tbody>{''.join(_html_row(row, table.names) for row in group)}</tbody>\n" for group in table.groups
    )
    notes = "".join(f'<p class="note">{html.escape(note)}</p>\n' for note in table.notes)
    caption = f"<caption>{html.escape(table.title)}</caption>"
    made = f'<table class="data">{caption}\n<thead><tr>{head}</tr></thead>\n{body}</table>'
    return f'<div class="wide">{made}</div>\n{notes}'


def escape_tex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"±": r"$\pm$", "×": r"$\times$", "<": r"$<$", ">": r"$>$", "→": r"$\to$", "—": "---", "–": "--"}
    return re.sub(r"[\\~^±×<>→—–]|[&%$#_{}]", lambda match: special.get(match[0], "\\" + match[0]), text)


def _md_row(cells: object) -> str:
    return "| " + " | ".join(cells) + " |"  # type: ignore[arg-type]


def _md(text: str) -> str:
    return re.sub(r"([\\|*_`<\[\]])", r"\\\1", text)


def _md_cell(cell: Cell) -> str:
    return _cell(cell, _md, "**{}**", "<ins>{}</ins>", " ({})")


def _tex_cell(cell: Cell) -> str:
    return _cell(cell, escape_tex, "\\textbf{{{}}}", "\\underline{{{}}}", " {{\\footnotesize ({})}}")


def _html_row(row: tuple[Cell, ...], names: int) -> str:
    cells = [_html_cell(cell) for cell in row]
    marks = ['<th scope="row">{}</th>' if i < names else "<td>{}</td>" for i in range(len(row))]
    return "<tr>" + "".join(mark.format(cell) for mark, cell in zip(marks, cells, strict=True)) + "</tr>\n"


def _html_cell(cell: Cell) -> str:
    """An entry; a number leads to where it comes from."""
    link = f'<a href="#{html.escape(cell.of)}">{{}}</a>' if cell.of and cell.text else "{}"
    text = _cell(replace(cell, remark=""), html.escape, "<b>{}</b>", "<u>{}</u>", "")
    return link.format(text) + (f"<small>{html.escape(cell.remark)}</small>" if cell.remark else "")


def _cell(cell: Cell, escape: Callable[[str], str], bold: str, underline: str, remark: str) -> str:
    text = escape(cell.text)
    if cell.underline:
        text = underline.format(text)
    if cell.bold:
        text = bold.format(text)
    return text + (remark.format(escape(cell.remark)) if cell.remark else "")

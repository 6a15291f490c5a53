"""The report: one self-contained page with the tables, the figures and where every number comes from."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from s4s.errors import Error
from s4s.files import write_text
from s4s.report.ablations import ablations_table
from s4s.report.claims import claims_table
from s4s.report.classes import classes_table
from s4s.report.data import Record, read_records, scores, to_frame
from s4s.report.gains import gains_table
from s4s.report.imitation import compared, imitation_table
from s4s.report.labels import method_label, start_label
from s4s.report.origin import Origin, origin
from s4s.report.protocol import feature_space, shared, warnings
from s4s.report.published import published_table
from s4s.report.render import Table, to_html
from s4s.report.table import fid_table, headline, summary_table

_CAPTIONS = {
    "fid": "FID against the number of network evaluations a sample (NFE); lower FID at fewer evaluations is better. "
    "Bold: learned solvers, with the standard deviation over fit seeds where there are several. Thin: classical "
    "solvers. Dashed: the teacher.",
    "fid_vs_calls": "The same against network calls: a guided evaluation is two of them, with the condition and "
    "without, unless the solver leaves one out.",
    "imitation": "FID to the samples that the teacher itself makes of the same noises; lower imitates it better, "
    "whatever the data. Learned solvers bold, classical ones thin.",
    "solvers": "What was learned. Top: the noise levels each solver visits, from pure noise (left) to data (right); "
    "open circles are levels handed to the network where they differ from the node's. Bottom: the weight of each "
    "network output D in each state x; red is positive, blue negative, one colour scale for all panels. "
    "Where outputs without the condition are weighed apart, theirs stand below.",
    "samples": "The first samples of each solver, not selected; a column shares its starting noise, so a good solver's "
    "row looks like the teacher's. The FID is that of the cell shown.",
    "distance": "How far a solver's state is from the teacher's, from the same noise and at the same noise level: root "
    "mean square over noises and dimensions, in data units; a point is a node. Lower is better at the right end, the "
    "sample, which is what a fit asks for; on the way a learned solver may leave the teacher's path. Lines: means over "
    "fit seeds where there are several, dots: single fits.",
    "loss": "Validation loss of each fit (lower: closer to the teacher) against its FID (lower is better). Where "
    "points rise to the right, the objective ranks solvers as FID does.",
    "gains": "FID of what was learned, divided by that of its start, against NFE; below 1 learning gained, and lower "
    "is better.",
    "teacher": "FID against the number of teacher samples that a fit learns from; lower is better. Dots: single fits, "
    "line: their mean. Where the line is flat, more samples buy nothing.",
    "ablations": "What each choice is worth: FID of a method's variations, lower is better. Dots: single fits, circles "
    "their mean, diamond and dashed line: the method as it is. The table of the same name says what they cost.",
    "course": "Principal components of S4S' weights, a colour a seed, and of iPNDM's, where every fit starts (stars). "
    "Left: the weights of every step, by its number, earlier steps darker. Right: all weights after every round of a "
    "fit, earlier rounds darker; the dotted line is the race of short streams before the first. Seeds that lie "
    "together, apart from the stars, learned the same solver.",
    "radius": "Held-out distance to the teacher (top) and FID (bottom) against the radius r of the relaxed objective, "
    "in units of sigma_T. Solid: noises as they were drawn. Dashed: each noise at the best place within its ball. "
    "Lines: means over fit seeds, dots: single fits; lower is better.",
}
BOX = ("Samples", "Extractor", "Reference", "Network", "Commit", "Config", "Device", "Versions")


@dataclass(frozen=True)
class Picture:
    """A figure as the page embeds it."""

    name: str
    caption: str
    source: str
    width: int
    link: str


def write_report(
    metrics_files: Iterable[Path], figures: Sequence[Path], path: Path, links: Sequence[Path] = ()
) -> None:
    """Write ``report.html``: inline style and script, embedded figures, no requests. Every number leads to its chain.

    Args:
        metrics_files: of one benchmark.
        figures: PNG files, in the order of the page; the first word of the name (fid, solvers, samples, loss) picks the
            caption. A PDF of the same name is linked.
        path: the page to write.
        links: more result files to link: ``fid.csv``, tables.

    Raises:
        Error: as ``s4s.report.data.read_records``, or a figure cannot be read.
    """
    records = read_records(metrics_files)
    found = scores(to_frame(records))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("s4s.report").joinpath("report.html.j2").read_text(encoding="utf-8"))
    origins = [origin(record, records) for record in records]
    tables = {"summary": summary_table(found, records), "full": fid_table(found, records)}
    page = template.render(
        benchmark=records[0]["benchmark"],
        headline=headline(found),
        space=feature_space(records),
        warnings=warnings(records),
        tables={name: _shown(table) for name, table in tables.items()},
        gains=_shown(gains_table(found, records)),
        claims=_shown(claims_table(found, records)),
        ablations=_shown(ablations_table(found, records)),
        published=_shown(published_table(found, records)),
        classes=_shown(classes_table(found, records) if any(s.within is not None for s in found) else None),
        imitation=_shown(imitation_table(found, records) if compared(found) else None),
        pictures=[_picture(figure, path) for figure in figures],
        box=_shared(origins),
        origins=origins,
        script=Markup(files("s4s.report").joinpath("report.js").read_text(encoding="utf-8")),
        parts={part: _facts(records, part) for part in ("protocol", "provenance")},
        cells=[_cell(record, path) for record in records],
        links=[_relative(link, path) for link in links],
    )
    write_text(path, page)


def _shown(table: Table | None) -> Markup | None:
    return None if table is None else Markup(to_html(table))


def _picture(figure: Path, page: Path) -> Picture:
    try:
        data = figure.read_bytes()
    except OSError as error:
        raise Error(f"{figure}: cannot read the figure: {error.strerror}") from error
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        raise Error(f"{figure}: not a PNG figure, or a truncated one; draw it again")
    width = struct.unpack(">I", data[16:20])[0]
    kind = figure.stem.replace("_", "-").split("-")[0]
    source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    caption = _CAPTIONS.get(figure.stem) or _CAPTIONS.get(kind, f"Figure {figure.stem}.")
    pdf = figure.with_name(figure.stem + ".pdf")
    return Picture(figure.stem, caption, source, width // 2, _relative(pdf if pdf.exists() else figure, page))


def _facts(records: Sequence[Record], part: str) -> list[tuple[str, str]]:
    """What all cells share, and for what differs how many values there are, or the values when they are short."""
    same, different = shared(records, part)
    facts = list(same.items())
    for key, values in different.items():
        listed = ", ".join(values)
        facts.append((key, listed if len(listed) <= 80 else f"{len(values)} different values; see the cells"))
    return sorted(facts)


def _cell(record: Record, page: Path) -> dict[str, str]:
    metrics = record["path"]
    solver = metrics.parent.parent / "solvers" / f"{record['cell']}.json"
    return {
        "name": record["cell"],
        "metrics": _relative(metrics, page),
        "solver": _relative(solver, page) if solver.exists() else "",
        "method": method_label(record["method"]),
        "start": start_label(record["solver"], record["schedule"]),
        "nfe": str(record["nfe"]),
        "seed": _number(record["seed"], ".0f"),
        "fid": _number(record["fid"], ".3f"),
        "n_samples": f"{record['n_samples']:,}",
        "val_loss": _number(record["val_loss"], ".4g"),
        "fit_seconds": _number(record["fit_seconds"], ".1f"),
        "fit_nfe": _number(record["fit_nfe"], ",.0f"),
        "sample_seconds": _number(record["sample_seconds"], ".1f"),
    }


def _shared(origins: Sequence[Origin]) -> list[tuple[str, str]]:
    """The protocol box: what every cell's facts agree on, or that they do not."""
    values: dict[str, dict[str, None]] = {key: {} for key in BOX}
    for made in origins:
        for key, value in made.facts:
            if key in values:
                values[key][value] = None
    said = [(key, next(iter(found)) if len(found) == 1 else f"{len(found)} different ones, see each number")
            for key, found in values.items() if found]  # fmt: skip
    return [("Score", origins[0].facts[0][0] + ", lower is better"), *said]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _relative(target: Path, page: Path) -> str:
    return quote(Path(os.path.relpath(target.resolve(), page.parent.resolve())).as_posix())

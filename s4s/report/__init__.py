"""Tables, figures and the report page, from result files alone. Nothing in here imports torch."""

from __future__ import annotations

from s4s.errors import extra

with extra("benchmark"):  # said once, for the whole wing
    import jinja2  # noqa: F401
    import markupsafe  # noqa: F401
    import matplotlib  # noqa: F401
    import pandas  # noqa: F401
    import seaborn  # noqa: F401

from s4s.report.ablations import draw_size
from s4s.report.anatomy import draw_solvers
from s4s.report.choices import draw_choices
from s4s.report.choose import Choice, choose
from s4s.report.course import draw_course
from s4s.report.curves import draw_fid, draw_gains, draw_imitation, draw_loss
from s4s.report.data import collect, write_fid_csv
from s4s.report.distance import draw_distance
from s4s.report.html import write_report
from s4s.report.kinds import write_kinds
from s4s.report.radius import draw_radius
from s4s.report.samples import draw_samples
from s4s.report.table import say_headline, write_tables

__all__ = [
    "Choice",
    "choose",
    "collect",
    "draw_choices",
    "draw_course",
    "draw_distance",
    "draw_fid",
    "draw_gains",
    "draw_imitation",
    "draw_loss",
    "draw_radius",
    "draw_samples",
    "draw_size",
    "draw_solvers",
    "say_headline",
    "write_fid_csv",
    "write_kinds",
    "write_report",
    "write_tables",
]

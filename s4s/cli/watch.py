"""Snakemake's events as a person wants them: the plan, lines that move, the end of a failed job's log.

On a terminal the last lines move; elsewhere they are written now and then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, ClassVar

from s4s.cli.progress import Job, Progress, tail
from s4s.errors import extra
from s4s.stages import plan

with extra("workflow"):
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text
    from snakemake_interface_logger_plugins.base import LogHandlerBase
    from snakemake_interface_logger_plugins.common import LogEvent

EVERY = 30.0  # seconds between lines where there is no terminal
TAIL = 12  # lines of a failed job's log
SILENT = ("Using workflow", "Building DAG", "host:", "Assuming unrestricted", "Conda environments", "Select jobs",
          "Execute ", "Complete log", "Reasons:", "Workflow finished", "Total run time", "Provided ", "Using shell",
          "Rules claiming", "Removing output")  # fmt: skip


class LogHandler(LogHandlerBase):
    """The logger that ``s4s run`` registers; the class holds what is known before Snakemake starts."""

    describe: ClassVar[Callable[[Mapping[str, int]], list[str]]]
    each: ClassVar[Mapping[str, float]]
    cores: ClassVar[int]
    planned: ClassVar[bool] = False  # whether Snakemake came to a plan, and whether another run had the folder
    locked: ClassVar[bool] = False
    writes_to_stream, writes_to_file, has_filter, has_formatter, needs_rulegraph = True, False, True, True, False

    def __post_init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self.progress: Progress | None = None
        self.live: Live | None = None
        self.over = threading.Event()
        self.last: list[str] = []  # of a dry run: its plan, so that it is what one sees
        self.quiet = any(str(value).lower().endswith("rules") for value in self.common_settings.quiet or ())
        self.on: dict[Any, Callable[[Any], None]] = {
            None: self._message,
            LogEvent.ERROR: self._message,
            LogEvent.RUN_INFO: self._plan,
            LogEvent.JOB_INFO: self._start,
            LogEvent.JOB_FINISHED: self._finish,
            LogEvent.JOB_ERROR: self._fail,
        }

    def emit(self, record: logging.LogRecord) -> None:
        """One event, or a message."""
        try:
            self.on.get(getattr(record, "event", None), lambda _: None)(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """The moving lines go."""
        self.over.set()
        if self.live is not None:
            self.live.stop()
        self._say(*self.last)
        self.last = []
        super().close()

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def _message(self, record: Any) -> None:
        text = record.getMessage().strip()
        type(self).locked |= text.startswith("LockException")
        if text.startswith("RuleException:\nCalledProcessError"):
            return  # what `_fail` says in a person's words
        if text and (record.levelno > logging.INFO or not text.startswith(SILENT)):
            self._say(text)

    def _plan(self, record: Any) -> None:
        type(self).planned = True
        left = plan.by_stage(record.stats)
        lines = type(self).describe(left)
        if self.common_settings.dryrun:
            self.last = lines
            return
        self._say(*lines)
        self.progress = Progress(left, self.each, self.cores, time.monotonic())
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._moving, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        else:
            threading.Thread(target=self._report, daemon=True).start()

    def _moving(self) -> Group:
        lines = self.progress.lines(time.monotonic()) if self.progress else []
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _report(self) -> None:
        while self.progress and not self.over.wait(EVERY):
            self._say(*self.progress.lines(time.monotonic()))

    def _start(self, record: Any) -> None:
        if not record.log:
            return
        log = PurePath(record.log[0])
        name = " ".join(log.with_suffix("").parts[2:])
        if self.common_settings.dryrun:
            reason = str(record.reason).split(":")[0].strip().lower()
            self._say(*[f"would run {name}: {reason}"] * (not self.quiet))
        elif self.progress:
            stage = record.rule_name.split("_")[0]
            self.progress.running[record.jobid] = Job(stage, name, str(log), time.monotonic())

    def _finish(self, record: Any) -> None:
        if self.progress:
            self.progress.finish(record.job_id)

    def _fail(self, record: Any) -> None:
        job = self.progress.running.pop(record.jobid, None) if self.progress else None
        logs = [str(path) for path in record.log]
        self._say(f"failed: {job.name if job else record.rule_name}")
        for log in logs:
            self._say(f"  {log} ends with", *(f"    {line}" for line in tail(log, TAIL)))

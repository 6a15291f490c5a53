"""How far a run is, and what its jobs last said: the lines that move, as text. Knows no Snakemake and no terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from s4s.stages import plan
from s4s.words import duration

BAR = 24  # characters
SHOWN = 4  # jobs
CREDIT = 0.1  # of the work, until which the plan's pace outweighs the one seen
TITLE = re.compile(r"^.*?(?=\b\d+%\|)")  # of a progress bar: the log's name says it
END = 8192  # bytes of a log that are looked at


@dataclass(frozen=True)
class Job:
    """A job that runs: its stage, its name, its log, and when it began."""

    stage: str
    name: str
    log: str
    began: float

    def line(self) -> str:
        """Where its log is, and the last it says there."""
        said = tail(self.log, 1)
        return f"  {self.log}  {TITLE.sub('', said[0]) if said else 'starts'}"


@dataclass
class Progress:
    """A run's jobs.

    Args:
        left: to run, by stage.
        each: CPU seconds of a job, by stage; may be empty.
        cores: how many run at once.
        began: when the first could start.
    """

    left: Mapping[str, int]
    each: Mapping[str, float]
    cores: int
    began: float
    done: int = 0
    spent: float = 0.0
    running: dict[int, Job] = field(default_factory=dict)

    def finish(self, jobid: int) -> None:
        """Count a job as done; those without a log, such as Snakemake's `all`, do no work."""
        job = self.running.pop(jobid, None)
        if job is not None:
            self.done += 1
            self.spent += self.each.get(job.stage, 0.0)

    def lines(self, now: float) -> list[str]:
        """How many are done, the time so far and to go; then the jobs that run."""
        total, running = sum(self.left.values()), list(self.running.values())
        full = BAR * self.done // max(total, 1)
        first = f"[{'=' * full:<{BAR}}] {self.done} of {total} jobs, {duration(now - self.began)}"
        to_go = self.to_go(now)
        first += f", about {duration(to_go)} to go" if to_go is not None else ""
        more = [f"  and {len(running) - SHOWN} more jobs"] if len(running) > SHOWN else []
        return [first, *(job.line() for job in running[:SHOWN]), *more]

    def to_go(self, now: float) -> float | None:
        """Seconds left: the plan's, at the pace seen so far; None without a plan."""
        work = sum(n * self.each[stage] for stage, n in self.left.items() if stage in self.each)
        if not work:
            return None
        under_way = sum(min(now - job.began, self.each[job.stage]) for job in list(self.running.values()))
        part = min((self.spent + 0.9 * under_way) / work, 0.99)
        planned = plan.wall_seconds(self.left, self.each, self.cores)
        pace = ((now - self.began) / planned + CREDIT) / (part + CREDIT)
        return (1 - part) * planned * pace


def tail(path: str, n: int) -> list[str]:
    """The last lines of a log that are not empty; a progress bar by its last state."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - END, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = (line.rstrip().rsplit("\r", 1)[-1].strip() for line in text.split("\n"))
    return [line for line in lines if line][-n:]

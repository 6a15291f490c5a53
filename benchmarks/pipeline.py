"""Where the CPU seconds of ``make reproduce`` went: from the benchmark file that Snakemake leaves beside every log.

python benchmarks/pipeline.py logs/digits
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

WORK = ("train", "teacher", "fit", "sample")
SNAKEMAKE = "snakemake"


def stages(logs: Path) -> dict[str, tuple[int, float]]:
    """Jobs and CPU seconds of every stage; a stage is the folder of a job's benchmark file, or the file's own name.

    The file ``snakemake.tsv``, which the workflow writes when it ends, is Snakemake itself.
    """
    found: dict[str, tuple[int, float]] = {}
    for path in sorted(logs.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        stage = path.relative_to(logs).parts[0].removesuffix(".tsv")
        jobs, spent = found.get(stage, (0, 0.0))
        found[stage] = (jobs + len(rows), spent + sum(_number(row["cpu_time"]) for row in rows))
    return found


def start_seconds() -> float:
    """CPU time of an interpreter that imports what a sampling job imports; its end Snakemake's files do not see."""
    program = ("from s4s.cli.main import seek_less_garbage; seek_less_garbage()\n"
               "import s4s.stages.sample, time; print(time.process_time())")  # fmt: skip
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "ab"]
    return min(float(run.stdout) for run in runs)


def share(found: dict[str, tuple[int, float]], start: float) -> float:
    """Useful share: training, teacher, fits and sampling without the starts of their jobs, of everything."""
    work = sum(max(spent - jobs * start, 0.0) for name, (jobs, spent) in found.items() if name in WORK)
    return work / sum(spent for _, spent in found.values())


def table(found: dict[str, tuple[int, float]], start: float) -> str:
    """Markdown: jobs, CPU seconds and share of each stage."""
    everything = sum(spent for _, spent in found.values())
    rows = [
        f"| {name} | {jobs} | {spent:.0f} | {100 * spent / everything:.1f}% | {jobs * start:.0f} |"
        for name, (jobs, spent) in sorted(found.items(), key=lambda item: -item[1][1])
    ]
    head = ["| stage | jobs | CPU seconds | share | of them interpreter starts |", "|---|---|---|---|---|"]
    last = f"Training, teacher, fits and sampling, without the starts of their jobs: {100 * share(found, start):.1f}%."
    if SNAKEMAKE not in found:
        last += " Snakemake's own time was not recorded in these logs and is left out."
    return "\n".join([*head, *rows, "", last])


def _number(text: str) -> float:
    """A job too short to be seen has no number."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def main() -> None:
    logs = Path(sys.argv[1] if len(sys.argv) > 1 else "logs/digits")
    found = stages(logs)
    if not found:
        sys.exit(f"{logs}: no benchmark files; run `make reproduce` first")
    print(table(found, start_seconds()))


if __name__ == "__main__":
    main()

"""``s4s run``: the plan, the lines that move, the end of a failed job's log, and the headline."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import ROOT, Commands
from rich.console import Console
from snakemake.cli import get_argument_parser
from snakemake_interface_logger_plugins.common import LogEvent

from s4s.cli import run as command
from s4s.cli.main import main
from s4s.cli.progress import Job, Progress, tail
from s4s.cli.watch import LogHandler
from s4s.stages import pace, plan, written
from s4s.stages.cells import cells
from s4s.stages.config import load
from s4s.words import duration

TINY = ROOT / "tests/tiny/config.yaml"


@pytest.mark.parametrize("methods, scored", [(None, 7), ([], 3)])
def test_dry_run_says_every_job_then_the_plan(
    methods: list[str] | None, scored: int, commands: Commands, tmp_path: Path
) -> None:
    """Snakemake's count of jobs is the plan's, also where nothing is learned: nothing is named as done already."""
    config = written.read(TINY)
    config["learned"] |= {} if methods is None else {"methods": methods}
    written.save(config, tmp_path / "tiny.yaml")
    made = commands.s4s(ROOT, "run", str(tmp_path / "tiny.yaml"), "-n", "--directory", str(tmp_path))
    assert made.returncode == 0, made.stderr
    lines = made.stderr.splitlines()
    counts = plan.job_counts(load(tmp_path / "tiny.yaml"))
    assert all(stage in counts for stage in ("teacher", "fit", "paths")) == (methods is None)
    total = sum(counts.values())
    assert sum(line.startswith("would run ") for line in lines) == total
    assert "would run train denoiser: missing output files" in lines
    assert f"tiny: {scored} solvers to score, {total} jobs" in lines
    for stage, n in counts.items():
        assert any(line.split()[:2] == [str(n), stage] for line in lines), stage
    assert any(line.startswith("about ") and "timed on this machine" in line for line in lines)
    assert lines[-1].startswith("results in ") and not (tmp_path / "results").exists() and made.stdout == ""


def test_a_run_that_goes_on_ends_with_the_headline(rerun: Path, commands: Commands) -> None:
    """Where only the page is left: a plan of one job, and then the numbers that the page begins with."""
    page = rerun / "results/tiny/report.html"
    page.unlink()
    made = commands.s4s(ROOT, "run", str(TINY), "--cores", "1", "--directory", str(rerun))
    assert made.returncode == 0, made.stderr
    assert re.search(r"^tiny: 7 solvers to score, 1 of \d+ jobs, the others are done$", made.stderr, re.MULTILINE)
    headline, protocol, path = made.stdout.splitlines()
    assert headline in page.read_text() and len(re.findall(r"\d+\.\d\d\b(?!×)", headline)) == 3
    assert protocol.startswith("FID@200") and path == str(page)


def test_bad_config_is_one_line_before_any_timing(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("benchmark: bad\nmodel: {type: digits, step: 3}\n")
    made = commands.s4s(ROOT, "run", str(tmp_path / "bad.yaml"))
    assert made.returncode == 1 and made.stderr.startswith("s4s: ") and len(made.stderr.splitlines()) == 1


def test_timing_covers_every_stage_of_the_plan() -> None:
    found = pace.job_seconds(load(TINY))
    assert found.keys() == plan.job_counts(load(TINY)).keys()
    assert all(seconds > 0 for seconds in found.values())


def test_a_timing_that_fails_leaves_the_plan_without_time() -> None:
    assert command.job_seconds({"model": {"type": "digits"}}, 1) == {}
    lines = plan.lines(load(TINY), {"fit": 2}, {}, 1)
    assert lines[1].split() == ["2", "fit", "solvers", "to", "learn"] and not any("timed" in line for line in lines)


def test_plan_of_a_published_model_gives_no_time() -> None:
    config = load(ROOT / "config/cifar10.yaml")
    lines = plan.lines(config, plan.job_counts(config), {}, 2)
    assert lines[0] == "cifar10: 163 solvers to score, 191 jobs"  # as docs/cluster.md has it
    assert any("s4s doctor" in line for line in lines) and not any("timed" in line for line in lines)


def test_wall_time_is_the_work_shared_or_the_longest_chain() -> None:
    each = {"train": 10.0, "teacher": 2.0, "fit": 5.0, "features": 1.0}
    left = {"train": 3, "teacher": 1, "fit": 8, "features": 4}
    assert plan.wall_seconds(left, each, 1) == 76
    assert plan.wall_seconds(left, each, 2) == 38
    assert plan.wall_seconds(left, each, 100) == 5 + 2 + 5 + 1


@pytest.mark.parametrize("seconds, text", [(0.2, "1 s"), (42, "42 s"), (540, "9 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_that_move(tmp_path: Path) -> None:
    log = tmp_path / "denoiser.log"
    log.write_text("s4s: a notice\ntrain:   1%|#  | 1/60\rtrain:  50%|## | 30/60")
    progress = Progress({"train": 3, "fit": 2}, {"train": 10.0, "fit": 20.0}, 1, began=0.0)
    assert progress.lines(0.0)[0].endswith("0 of 5 jobs, 1 s, about 70 s to go")
    progress.running[1] = Job("train", "train denoiser", str(log), 0.0)
    assert progress.lines(5.0)[1] == f"  {log}  50%|## | 30/60"
    progress.running[2] = Job("fit", "fit x", str(tmp_path / "none.log"), 5.0)
    assert progress.lines(5.0)[2].endswith("none.log  starts")
    left = [progress.to_go(now) for now in (5.0, 8.0, 10.0)]
    assert left == sorted(left, reverse=True)  # type: ignore[type-var]
    progress.finish(1)
    assert progress.done == 1 and len(progress.lines(10.0)) == 2
    progress.running |= {i: Job("fit", "fit", "log", 10.0) for i in range(3, 9)}
    assert progress.lines(11.0)[-1] == "  and 3 more jobs"
    slow, fast = (Progress({"fit": 2}, {"fit": 20.0}, 1, 0.0, done=1, spent=20.0).to_go(now) for now in (60.0, 20.0))
    assert slow is not None and fast is not None and slow > 2 * fast
    assert Progress({"fit": 2}, {}, 1, 0.0).to_go(1.0) is None


def test_tail_reads_the_end_alone(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("x" * 100_000 + "\n" + "".join(f"line {i}\n\n" for i in range(20)))
    assert tail(str(log), 2) == ["line 18", "line 19"]
    assert tail(str(tmp_path / "none.log"), 2) == []


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> LogHandler:
    """One that writes to memory, as where there is no terminal."""
    for name, value in {"describe": lambda left: [f"plan of {left}"], "each": {"fit": 9.0}, "cores": 1}.items():
        monkeypatch.setattr(LogHandler, name, staticmethod(value) if callable(value) else value, raising=False)
    made = LogHandler(SimpleNamespace(dryrun=False, quiet=None), None)  # type: ignore[arg-type]
    made.console = Console(file=io.StringIO(), highlight=False, markup=False, emoji=False)
    return made


def record(event: Any, text: str = "", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", level, "", 0, text, (), None)
    vars(made).update({"event": event} if event else {}, **fields)
    return made


def test_a_failed_job_shows_the_end_of_its_log(handler: LogHandler, tmp_path: Path) -> None:
    log = tmp_path / "logs/tiny/fit/cell.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {i}\n" for i in range(40)) + "s4s: [what] was wrong\n")
    job = {"jobid": 1, "log": [str(log)], "rule_name": "fit"}
    handler.emit(record(LogEvent.RUN_INFO, stats={"fit": 2, "all": 1, "total": 3}))
    handler.emit(record(LogEvent.JOB_INFO, **job))
    assert handler.progress is not None and len(handler.progress.running) == 1
    handler.emit(record(LogEvent.JOB_ERROR, **job))
    handler.emit(record(LogEvent.ERROR, "RuleException:\nCalledProcessError in file ...", logging.ERROR))
    handler.emit(record(None, "Trying to restart job 1."))
    handler.emit(record(None, "Building DAG of jobs..."))
    handler.emit(record(LogEvent.ERROR, "Exiting because a job execution failed.", logging.ERROR))
    handler.close()
    said = handler.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said[0] == "plan of {'fit': 2}"
    assert said[2] == f"  {log} ends with" and said[-3] == "    s4s: [what] was wrong"
    assert len(said) == 3 + 12 + 2 and said[-2:] == [
        "Trying to restart job 1.",
        "Exiting because a job execution failed.",
    ]
    assert not handler.progress.running and handler.progress.done == 0


def test_without_a_terminal_a_line_is_written_now_and_then(
    handler: LogHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s4s.cli.watch.EVERY", 0.01)
    handler.emit(record(LogEvent.RUN_INFO, stats={"fit": 2}))
    handler.emit(record(LogEvent.JOB_INFO, jobid=1, log=["logs/tiny/fit/cell.log"], rule_name="fit"))
    while "cell.log" not in (said := handler.console.file.getvalue()):  # type: ignore[attr-defined]
        handler.over.wait(0.01)
    handler.close()
    assert "0 of 2 jobs" in said and "  logs/tiny/fit/cell.log  starts" in said


def test_run_hands_options_on_and_ends_with_the_headline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    seen: list[list[str]] = []

    def ran(options: list[str], *_: Any) -> int:
        seen.append(options)
        return len(seen) - 1

    monkeypatch.setattr(command, "snakemake", ran)
    monkeypatch.setattr(LogHandler, "planned", True)
    monkeypatch.setattr(command, "job_seconds", lambda *_: {})
    monkeypatch.setattr("s4s.report.say_headline", lambda files: f"three numbers of {len([*files])} cells")
    made = tmp_path / "results/tiny"
    for name in ["report.html", *(f"metrics/{cell.name}.json" for cell in cells(load(TINY)))]:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).touch()
    for status in (0, 1):
        with pytest.raises(SystemExit) as end:
            main(["run", str(TINY), "--forceall", "--directory", str(tmp_path), "--cores", "3"])
        assert end.value.code == status
    assert seen[0] == ["--forceall", "--directory", str(tmp_path), "--cores", "3", "--configfile", str(TINY)]
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("not finished: ")
    out = printed.out.splitlines()
    assert out == ["three numbers of 7 cells", str(tmp_path / "results/tiny/report.html")]
    (made / "report.html").unlink()  # as after `s4s run CONFIG fit`
    seen.clear()
    with pytest.raises(SystemExit):
        main(["run", str(TINY), "--directory", str(tmp_path)])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], {"benchmark": "digits"}),
        (["-n", "--config", "benchmark=mine", "sample={n: 300}"], {"benchmark": "mine", "sample": 300}),
        ([str(TINY), "--config", "sample={n: 300}"], {"benchmark": "tiny", "sample": 300}),
        (["--configfile", "config/digits.yaml", str(TINY)], {"benchmark": "tiny", "sample": 200}),
        (["config/digits.yaml", "--configfile", str(TINY), "-n"], {"benchmark": "tiny", "sample": 200}),
    ],
)
def test_the_plan_is_of_the_config_that_snakemake_sees(
    options: list[str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    files = [Path(option) for option in options if option.endswith(".yaml")]
    seen: list[Any] = []
    monkeypatch.setattr(command, "snakemake", lambda *given: seen.append(given) or 1)
    monkeypatch.setattr(command, "job_seconds", lambda *_: {})
    with pytest.raises(SystemExit):
        main(["run", *options])
    ((handed, config, _, _),) = seen
    assert (get_argument_parser().parse_args(handed).configfile or []) == files
    assert config["benchmark"] == expected["benchmark"]
    assert config["sample"]["n"] == expected.get("sample", 5000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cores", "abc"], "number of cores (--cores, -c): must be integer or 'all'"),
        (["--cores", "0"], "--cores: nothing can run on 0 cores; give 1 or more"),
        (["--cores", "-1", "-n"], "--cores: nothing can run on -1 cores; give 1 or more"),
        (["-j", "0"], "--jobs: nothing can run on 0 cores; give 1 or more"),
        (["--config", "benchmark"], "name=value pairs. (Unparsable value: 'benchmark')"),
        (["--config", f"benchmark={'a' * 300}"], "is too long (name of the results folder"),
    ],
)
def test_options_that_cannot_be_are_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "snakemake", lambda *_: pytest.fail("it started"))
    with pytest.raises(SystemExit) as end:
        main(["run", str(TINY), *options])
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith("s4s: ") and message in said and said.count("\n") == 1


@pytest.mark.parametrize(("options", "cores"), [([], None), (["--cores", "3"], 3), (["-j", "3"], 3)])
def test_the_plan_is_for_the_cores_that_snakemake_takes(
    options: list[str], cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    seen: list[Any] = []
    monkeypatch.setattr(command, "snakemake", lambda *given: seen.append(given) or 1)
    monkeypatch.setattr(command, "job_seconds", lambda *_: {})
    with pytest.raises(SystemExit):
        main(["run", str(TINY), *options])
    ((handed, _, _, told),) = seen
    assert (told == cores or cores is None) and ("--cores" in handed) == ("-j" not in handed)


def test_what_is_said_of_a_run_that_did_not_start(rerun: Path, commands: Commands) -> None:
    """Of a lock that a killed run left how to remove it; of a missing rule nothing but what Snakemake says."""
    start = ["run", str(TINY), "--cores", "1", "--directory", str(rerun)]
    (rerun / "results/tiny/report.html").unlink()
    lock = rerun / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("results/tiny/report.html\n")
    made = commands.s4s(ROOT, *start)
    assert made.returncode == 1 and "LockException" in made.stderr
    assert made.stderr.splitlines()[-1] == command.LOCKED and "--unlock" in command.LOCKED
    freed = commands.s4s(ROOT, *start, "--unlock")
    assert freed.returncode == 0 and "Unlocked" in freed.stderr and freed.stdout == ""
    wrong = commands.s4s(ROOT, *start, "nothing")
    assert wrong.returncode == 1 and "MissingRuleException" in wrong.stderr and "not finished" not in wrong.stderr
    assert commands.s4s(ROOT, *start).returncode == 0


def test_elsewhere_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    seen: list[Any] = []
    monkeypatch.setattr(command, "snakemake", lambda *given: seen.append(given) or 1)
    with pytest.raises(SystemExit):
        main(["run", "--profile", "workflow/profiles/slurm"])
    assert seen[0][0] == ["--profile", "workflow/profiles/slurm"] and seen[0][2] == {}


def test_outside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["run"])
    assert capsys.readouterr().err.startswith("s4s: no Snakefile here")

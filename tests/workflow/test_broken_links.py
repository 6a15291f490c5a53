"""What Snakemake's dates and records cannot show: a run on results that no longer follow stops, and says why."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from broken import Run

from s4s import records
from s4s.stages.verify import report


def test_links_that_snakemake_does_not_see(unbroken: Run, tmp_path: Path) -> None:
    """An older network in the place of the newer, a config whose files were only touched; nothing once it is mended."""
    shutil.copytree(unbroken.folder, tmp_path / "run", symlinks=True)
    run = Run(tmp_path / "run", unbroken.commands)
    assert report(run.results)[1]
    status, output = run()
    assert status == 0 and "Nothing to be done" in output, output

    network = run.results / "models" / "denoiser.safetensors"
    whole, times = network.read_bytes(), network.stat()
    network.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(network, ns=(times.st_atime_ns, times.st_mtime_ns))
    status, output = run()
    assert status != 0 and "models/denoiser.safetensors: has changed since it was made: SHA-256" in output, output
    network.write_bytes(whole)
    os.utime(network, ns=(times.st_atime_ns, times.st_mtime_ns))
    run.finish()
    assert run.made() == unbroken.made() and report(run.results)[1]

    status, output = run("--config", "sample={seed: 7}", "--rerun-triggers", "mtime")
    assert status != 0 and "seed = 200 there, 7 in this one" in output, output
    run("--config", "sample={seed: 7}", "--touch")
    status, output = run("--config", "sample={seed: 7}")
    assert status == 0 and run.made()["scores"] != unbroken.made()["scores"], output
    status, output = run()
    assert status == 0 and run.made() == unbroken.made(), output
    status, output = run()
    assert status == 0 and "Nothing to be done" in output, output


def test_copied_results_of_older_code_are_made_again(unbroken: Run, tmp_path: Path) -> None:
    """Without Snakemake's own records, which stay where the results were made: a solver and what was made from it."""
    run = Run(tmp_path / "run", unbroken.commands)
    shutil.copytree(unbroken.results, run.results)
    network = (run.results / "models" / "denoiser.safetensors").stat().st_mtime_ns
    name = "solvers/s4s_ipndm3_edm_nfe4_seed0.json"
    record = records.read(run.results, name)
    assert record is not None
    replace(record, made_from={**record.made_from, "code": record.made_from["code"] - 1}).write(run.results, name)
    planned = run("-n")[1]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    assert jobs["fit"] == "1" and not {"train", "teacher", "textbook"} & {*jobs}, planned
    run.finish()
    assert run.made() == unbroken.made() and report(run.results)[1]
    assert (run.results / "models" / "denoiser.safetensors").stat().st_mtime_ns == network
    status, output = run()
    assert status == 0 and "Nothing to be done" in output, output

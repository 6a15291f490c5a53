"""What Snakemake's dates and records cannot show: a run on results that no longer follow stops, and says why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from broken import Run

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

    for options in (["--touch"], ["--rerun-triggers", "mtime"]):
        status, output = run("--config", "sample={seed: 7}", *options)
        if "--touch" in options:
            status, output = run("--config", "sample={seed: 7}")
        assert status != 0 and "seed = 200 there, 7 in this one" in output, output
    status, output = run()
    assert status == 0 and run.made() == unbroken.made(), output
    status, output = run()
    assert status == 0 and "Nothing to be done" in output, output

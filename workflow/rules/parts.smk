# What a list of benchmarks and one of them share: the PATH of jobs, and benchmarks that are a job each, a run of the
# pipeline of its own.
import os
import sys
from pathlib import Path

from s4s.stages import kinds as several


envvars:
    "PATH",


# Jobs find the s4s of the environment that runs Snakemake, activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def gone(part, mark):
    """No file: makes Snakemake run a part again, which leaves a mark, where its table, figures or page are not there."""
    if workflow.is_main_process and not workflow.touch and not several.whole(part, Path("results")):
        workflow.dag.forcefiles.add(mark)
    return []

# What a list of benchmarks and the paper share: benchmarks that are a job each, a run of the pipeline of its own.
from pathlib import Path

from s4s.stages import kinds as several


def gone(part, mark):
    """No file: makes Snakemake run a part again, which leaves a mark, where its table, figures or page are not there."""
    if workflow.is_main_process and not workflow.touch and not several.whole(part, Path("results")):
        workflow.dag.forcefiles.add(mark)
    return []

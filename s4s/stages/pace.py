"""How long a job takes here: a few seconds of timing on this machine, times what ``s4s.stages.costs`` counts.

Only for networks that the pipeline trains itself: published ones are not there before the run. `s4s run` calls it as a
program, ``python -m s4s.stages.pace CONFIG_AS_JSON``.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from s4s.models.digits import SHAPE, Classifier
from s4s.stages import costs
from s4s.stages.cells import cells, rows_a_call
from s4s.stages.plan import job_counts
from s4s.stages.skeleton import digits
from s4s.stages.train import HALVES

Config = Mapping[str, Any]
ROWS = 256  # of a network call
LEAST = 0.3  # seconds that a timing takes
CLASSES = 64  # batch of the classifiers' training
STARTS = {"train": 2, "evaluate": 2, "figure": 2}  # what a job's own imports take, in those of the others


def job_seconds(config: Config) -> dict[str, float]:
    """CPU seconds of a job, by stage, the mean of the config's jobs. For a fresh process, whose own start counts."""
    start = time.process_time()  # in a fresh process: of Python, torch and the stages
    warnings.simplefilter("ignore")  # torch's own, which nobody has asked for here
    torch.set_num_threads(1)
    counts, spent, model = job_counts(config), costs.evaluations(config), config["model"]
    net = digits(config)
    states, images, level = torch.randn(ROWS, *net.shape), torch.randn(ROWS, *SHAPE), torch.ones(ROWS)
    labels = torch.zeros(ROWS, dtype=torch.long) if net.classes else None
    with torch.no_grad():
        evaluation = rows_a_call(config) * _seconds(lambda: net(states, level, labels)) / ROWS
    half = model["batch"] // HALVES
    some = None if labels is None else labels[:half]
    training = model["steps"] * HALVES * _slopes(net, lambda: net(states[:half], level[:half], some))
    classifier = Classifier()
    classifier_steps = (counts["train"] - 1) * model["classifier_steps"] * HALVES
    training += classifier_steps * _slopes(classifier, lambda: classifier(images[: CLASSES // 2]))
    scored = len(cells(config)) * config["sample"]["n"]  # an image's features take about what an evaluation does
    sampling = "sample" if "sample" in counts else "features"
    work = {
        "train": training,
        "teacher": spent["teacher"] * evaluation,
        "fit": spent["fits"] * evaluation,
        "features": scored * evaluation,
        "paths": costs.NOISES * sum(cell.nfe for cell in cells(config)) * evaluation,
    }
    work[sampling] = work.get(sampling, 0.0) + spent["samples"] * evaluation
    return {stage: STARTS.get(stage, 1) * start + work.get(stage, 0.0) / n for stage, n in counts.items()}


def _seconds(run: Callable[[], Any]) -> float:
    """CPU time of one call, after a first one that is not counted: other programs may be running now."""
    run()
    began, calls = time.process_time(), 0
    while (passed := time.process_time() - began) < LEAST:
        run()
        calls += 1
    return passed / calls


def _slopes(net: nn.Module, run: Callable[[], torch.Tensor]) -> float:
    """Seconds of one gradient by all weights."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    return _seconds(lambda: torch.autograd.grad(run().square().mean(), parameters))


if __name__ == "__main__":
    print(json.dumps(job_seconds(json.loads(sys.argv[1]))))

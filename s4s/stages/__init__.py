"""The pipeline's stages: each reads and writes files under ``results/<benchmark>`` and nothing else.

A stage checks that what it reads was made from the same part of the config, so that two configs never mix in a folder.
"""

from __future__ import annotations

from s4s.stages.bench import Bench as Bench
from s4s.stages.download import download_model as download_model
from s4s.stages.evaluate import evaluate_cell as evaluate_cell
from s4s.stages.features import make_features as make_features
from s4s.stages.fit import fit_cell as fit_cell
from s4s.stages.networks import train_network as train_network
from s4s.stages.sample import sample_cell as sample_cell
from s4s.stages.teacher import make_teacher as make_teacher
from s4s.stages.transfer import evaluate_solver as evaluate_solver

#!/usr/bin/env bash
# pymdma 0.3.0, PrecisionRecallDistribution: max_f_beta_inv, "correlates with precision", is max_f_beta, "correlates with recall",
# over again; and its ten runs are one.
#
# Expected: two numbers that sum up the curve of precision and recall (arXiv 1806.00035): the largest F_8, which is low if
# modes of the data are missing, and the largest F_1/8, which is low if samples lie where no data are. num_runs=10 averages
# over ten clusterings, since one depends on its random start.
# Seen: the two numbers agree to nine digits for any pair of sets. For the second one, precision and recall are given in each
# other's place and beta is inverted as well; either would be right, both together are F_8 again. A generator whose
# samples are half rubbish gets 0.98 in place of 0.50 for precision. Each of the runs clusters from the same seed, so ten
# take ten times as long as one and give the same curve.
#
# The data are modes far apart, so the histogram of the clusters, and with it the curve, is known exactly.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.0 matplotlib==3.10.8 pydantic==2.12.5
"$folder/venv/bin/pip" install --quiet --no-compile --no-deps pymdma==0.3.0 # its other metrics' tools are not needed
cd "$folder"
OMP_NUM_THREADS=1 MPLCONFIGDIR="$folder" venv/bin/python -W ignore - <<'PYTHON'
import time

import numpy as np
from pymdma.general.measures.prd import PrecisionRecallDistribution

MODES, EACH = 10, 60
generator = np.random.default_rng(0)


def draw(counts):
    """Samples of modes on a circle of radius 1000, so many of each."""
    angles = 2 * np.pi * np.repeat(np.arange(len(counts)), counts) / len(counts)
    return 1000 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + generator.normal(size=(len(angles), 2))


def by_the_book(real, fake):
    """The largest F_8 and F_1/8 on the curve of two histograms: precision sum min(s p, q), recall sum min(p, q / s)."""
    p, q = real / real.sum(), fake / fake.sum()
    s = np.tan(np.linspace(1e-6, np.pi / 2 - 1e-6, 20001))[:, None]
    precision, recall = np.minimum(s * p, q).sum(axis=1), np.minimum(p, q / s).sum(axis=1)
    return [np.max((1 + b * b) * precision * recall / (b * b * precision + recall)) for b in (8, 1 / 8)]


half = MODES // 2
all_modes = np.full(MODES, EACH)
cases = {
    "half of the modes": (all_modes, np.array([2 * EACH] * half + [0] * half)),
    "half rubbish": (np.array([2 * EACH] * half + [0] * half), all_modes),
    "perfect": (all_modes, all_modes),
    "one mode, a tenth of rubbish": (np.array([EACH] * (MODES - 1) + [0]), np.array([9 * EACH] + [0] * (MODES - 2) + [EACH])),
}
print("pymdma 0.3.0, beta 8")
for name, (real, fake) in cases.items():
    stats = PrecisionRecallDistribution(num_clusters=MODES, num_runs=1).compute(draw(real), draw(fake)).dataset_level.stats
    f_beta, inverse = stats["max_f_beta"], stats["max_f_beta_inv"]
    book = by_the_book(real, fake)
    print(f"{name}: max_f_beta {f_beta:.4f}, max_f_beta_inv {inverse:.4f}; by the definition {book[0]:.4f} and {book[1]:.4f}")
    cases[name] = f_beta, inverse, *book

crowd = np.full(37, 9)  # more modes than clusters: what a clustering does depends on its start
sets = draw(crowd), draw(crowd[::-1] + np.arange(37) % 5)
curves, seconds = [], []
for runs in (1, 10):
    metric = PrecisionRecallDistribution(num_clusters=20, num_runs=runs)
    begin = time.perf_counter()
    curves.append(np.asarray(metric.compute(*sets).dataset_level.value["precision_values"]))
    seconds.append(time.perf_counter() - begin)
between = np.abs(curves[1] - curves[0]).max()
print(f"curves of 1 and of 10 runs: largest difference {between:.0e}; {seconds[1] / seconds[0]:.1f} times as long")

for name, (f_beta, inverse, book, book_inverse) in cases.items():
    assert abs(f_beta - book) < 1e-3, (name, f_beta, book)
    assert abs(inverse - f_beta) < 1e-8, (name, inverse, f_beta)
assert cases["half rubbish"][3] < 0.6 and cases["half rubbish"][1] > 0.95, cases
assert cases["half of the modes"][3] > 0.95 and cases["half of the modes"][1] < 0.6, cases
assert between < 1e-12, between
print("stands: one number under two names")
PYTHON

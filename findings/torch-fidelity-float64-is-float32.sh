#!/usr/bin/env bash
# torch-fidelity 0.4.0: feature_extractor_internal_dtype="float64" computes in float32.
#
# Expected: the option, said to lead to better numerical precision, and also `--feature-extractor-internal-dtype float64`
# on the command line, make the network compute in float64: its features then differ from float32's in the 7th digit.
# Seen: the name is looked up in a table where float64 stands for torch.float32. Parameters and features are float32 and equal
# those of the default to the last bit. Nothing warns, so a check "is our FID sensitive to precision?" always says no.
#
# The weights are random (the published ones are a download): only the type of the arithmetic is looked at. torchvision is
# imported by the package and not used here; an empty stand-in spares its installation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 numpy==2.4.6 scipy==1.17.1 pillow==13.0.0 tqdm==4.70.1
"$folder/venv/bin/pip" install --quiet --no-compile --no-deps torch-fidelity==0.4.0
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import importlib.abc
import importlib.machinery
import sys
import types

import torch


class StandIn(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        module.__path__ = []


sys.meta_path.insert(0, Finder())
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402

# The constructor insists on a file of weights: write one with the random weights of a network whose loading is skipped.
load = FeatureExtractorInceptionV3.load_state_dict
torch.save({}, "empty.pth")
FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
torch.manual_seed(0)
first = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="empty.pth")
FeatureExtractorInceptionV3.load_state_dict = load
torch.save(first.state_dict(), "random.pth")

images = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def features(name):
    settings = {"feature_extractor_weights_path": "random.pth", "feature_extractor_internal_dtype": name}
    network = FeatureExtractorInceptionV3("random", ["2048"], **settings).eval()
    with torch.no_grad():
        out = network(images)[0]
    parameters = {p.dtype for p in network.parameters()}
    print(f"asked for {name}: parameters {parameters}, features {out.dtype}")
    return out, parameters


print("torch-fidelity 0.4.0, inception-v3-compat")
single, _ = features("float32")
double, parameters = features("float64")
by_hand = first.double()
by_hand.feature_extractor_internal_dtype = torch.float64
with torch.no_grad():
    true = by_hand.eval()(images)[0]
away = (true - single).norm() / true.norm()
print(f"a network made float64 by hand: features {true.dtype} (rounded at the end), relative difference {away:.0e}")

assert parameters == {torch.float32} and torch.equal(single, double)
assert 1e-9 < away < 1e-3
print("stands: float64 is the default float32, bit for bit")
PYTHON

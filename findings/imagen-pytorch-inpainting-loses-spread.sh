#!/usr/bin/env bash
# imagen-pytorch 2.1.0, ElucidatedImagen, inpainting: resampling takes the spread out of the filled-in part; the more of it, the less
# the fillings differ.
#
# Expected: inpaint_resample_times, 5 by default (RePaint, arXiv 2201.09865), goes back to the old noise level and down again
# several times at each step, so that the filling comes to suit the given part: its mean and spread approach those of the data,
# given that part.
# Seen: the mean does; the spread goes past the right 0.109 and on towards 0: 0.15, 0.09 and 0.04 for 1, 5 and 20 times. The way
# back from sigma' to sigma adds noise of sigma - sigma' in place of the root of sigma^2 - sigma'^2 (variances add up), which is
# little of it if the steps are short; what the network is told is of level sigma has less noise. (Nor does the given part get
# noise of the level, only that of the churn; that changes little here.) With the right noises the spread is 0.11 after 20 times.
#
# The problem is exact: Gaussian pixels in pairs, of which one is given; the best network is known in closed form, and so is
# the distribution of the other. Packages that are imported and not used here have empty stand-ins.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 numpy==2.4.6 einops==0.8.2 beartype==0.23.1 packaging==26.3
"$folder/venv/bin/pip" install --quiet --no-compile tqdm==4.70.1 pydantic==2.12.5
"$folder/venv/bin/pip" install --quiet --no-compile --no-deps imagen-pytorch==2.1.0
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import importlib.abc
import importlib.machinery
import math
import sys
import types

import torch

UNUSED = {"PIL", "accelerate", "click", "datasets", "ema_pytorch", "fsspec", "kornia", "pytorch_warmup", "torchvision", "transformers"}


class StandIn(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        module.__path__ = []
        module.logging = types.SimpleNamespace(set_verbosity_error=lambda: None)
        config = types.SimpleNamespace(d_model=768)  # the text encoder's width, asked for on import; a download otherwise
        module.T5Config = types.SimpleNamespace(from_pretrained=lambda name: config)


sys.meta_path.insert(0, Finder())
from imagen_pytorch import ElucidatedImagen, Unet  # noqa: E402

SIZE, HALF, IMAGES, STEPS = 64, 32, 5, 100
SPREAD, RELATED, SIGMA_DATA = 0.25, 0.9, 0.5  # each pixel of the left half has a partner in the right half


def best_guess(x, sigma):
    """The mean of the data, given data plus noise of this level: sum and difference of a pair are independent."""
    left, right = x[..., :HALF], x[..., HALF:]
    total = (left + right) * (1 + RELATED) / (1 + RELATED + (sigma / SPREAD) ** 2)
    apart = (left - right) * (1 - RELATED) / (1 - RELATED + (sigma / SPREAD) ** 2)
    return torch.cat([total + apart, total - apart], dim=-1) / 2


class Network(Unet):
    """The network whose guess is the best one, with the scalings that the package puts around it."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.lowres_cond = self.self_cond = False

    def cast_model_parameters(self, **settings):
        return self

    def forward(self, scaled, level, **unused):
        sigma = level.mul(4).exp().view(-1, 1, 1, 1)
        total = (sigma**2 + SIGMA_DATA**2).sqrt()
        x = scaled * total
        return (best_guess(x, sigma) - (SIGMA_DATA / total) ** 2 * x) * total / (sigma * SIGMA_DATA)


def by_the_package(given, mask, times):
    settings = {"image_sizes": SIZE, "channels": 1, "condition_on_text": False, "text_embed_dim": 8}
    model = ElucidatedImagen(Network(), num_sample_steps=STEPS, sigma_data=SIGMA_DATA, **settings)
    images = (given + 1) / 2
    out = model.sample(inpaint_images=images, inpaint_masks=mask[:, 0], inpaint_resample_times=times, use_tqdm=False)
    return 2 * out - 1


def with_right_noise(given, mask, times):
    """The same steps, with the noise of its level on the given part and the missing variance on the way back."""
    ramp = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), STEPS)
    sigmas = [*(ramp**7).tolist(), 0.0]
    x = sigmas[0] * torch.randn_like(given)
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        for again in reversed(range(times if then else 1)):
            level = now * (1 + (min(80 / STEPS, math.sqrt(2) - 1) if 0.05 <= now <= 50 else 0))
            x = x + 1.003 * math.sqrt(level**2 - now**2) * torch.randn_like(x)
            x = torch.where(mask, given + level * torch.randn_like(x), x)
            slope = (x - best_guess(x, level)) / level
            end = x + (then - level) * slope
            if then:
                end = x + (then - level) * (slope + (end - best_guess(end, then)) / then) / 2
            x = end + math.sqrt(now**2 - then**2) * torch.randn_like(x) if again else end
    return x


def look(filled, given):
    """How much of the given pixel its partner takes over, and how much the partner varies besides."""
    known, other = given[..., :HALF], filled[..., HALF:]
    share = ((known * other).mean() / known.square().mean()).item()
    return share, (other - share * known).std().item()


torch.manual_seed(0)
given = SPREAD * torch.randn(IMAGES, 1, SIZE, SIZE)
mask = torch.zeros(IMAGES, 1, SIZE, SIZE, dtype=torch.bool)
mask[..., :HALF] = True
true = SPREAD * math.sqrt(1 - RELATED**2)
print(f"imagen-pytorch 2.1.0, {STEPS} steps; right: {RELATED} of the given pixel, spread {true:.3f}")
seen, right = {}, {}
for times in (1, 5, 20):
    filled = by_the_package(given, mask, times)
    assert torch.allclose(filled[mask], given[mask], atol=1e-5)
    seen[times], right[times] = look(filled, given), look(with_right_noise(given, mask, times), given)
    print(
        f"resampled {times:2d} times: {seen[times][0]:.3f} of the given pixel, spread {seen[times][1]:.3f}; "
        f"with the right noise {right[times][0]:.3f}, {right[times][1]:.3f}"
    )

assert seen[1][1] > 0.13 and seen[5][1] < 0.095 and seen[20][1] < 0.05, seen
assert all(abs(seen[times][0] - right[times][0]) < 0.03 for times in seen), (seen, right)
assert right[1][1] > right[5][1] > right[20][1] > true - 0.002 and abs(right[20][1] - true) < 0.008, right
print("stands: resampling takes the spread away")
PYTHON

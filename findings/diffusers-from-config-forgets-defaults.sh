#!/usr/bin/env bash
# diffusers 0.42.1, from_config: two schedulers with equal configs turn into two different noise schedules, and saving
# one to disk and loading it back changes which.
#
# Expected: HeunDiscreteScheduler.from_config(scheduler.config), the usual way to change the sampler of a trained model,
# keeps the noise schedule that the model was trained on.
# Seen: a config remembers in a private entry which values its maker had left at the default; from_config drops those and
# takes the defaults of the NEW class. DDPMScheduler() turned into Heun or KDPM2 has betas 0.00085 to 0.012 in place of
# 0.0001 to 0.02, so sigma_max is 25 in place of 157; turned into LCM also another curve. The same scheduler with the same
# numbers written out, or saved and loaded (a file does not carry the private entry), keeps its schedule. Nothing is said.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
)


def public(scheduler):
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


def sigma_max(kind, scheduler):
    last = kind.from_config(scheduler.config).alphas_cumprod[-1].item()
    return ((1 - last) / last) ** 0.5


left_out = DDPMScheduler()
written_out = DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
left_out.save_pretrained("saved")
loaded = DDPMScheduler.from_pretrained("saved")
assert public(left_out) == public(written_out) == public(loaded)
assert (left_out.alphas_cumprod == written_out.alphas_cumprod).all()

print("diffusers 0.42.1: sigma_max after from_config of one DDPM schedule, made with defaults / written out / loaded")
seen = {}
for kind in (HeunDiscreteScheduler, KDPM2DiscreteScheduler, LCMScheduler, DPMSolverMultistepScheduler):
    seen[kind.__name__] = [sigma_max(kind, scheduler) for scheduler in (left_out, written_out, loaded)]
    print(f"{kind.__name__:28s}" + " / ".join(f"{value:7.2f}" for value in seen[kind.__name__]))

for name, (first, second, third) in seen.items():
    assert abs(second - 157.41) < 0.01 and second == third, (name, second, third)
    assert (first == second) == (name == "DPMSolverMultistepScheduler"), (name, first, second)
print("stands: what from_config makes of a config depends on how it came about, not on what it says")
PYTHON

"""DPM-Solver++(2M) by diffusers' own DPMSolverMultistepScheduler, on the logSNR grid (arXiv:2211.01095).

A method of one's own that is a function, see docs/methods.md: the update is diffusers' code, only the levels are ours.
"""

from diffusers import DPMSolverMultistepScheduler

import s4s


def sample(x_T, denoise, process, nfe):
    """Samples from noises x_T, by nfe calls of denoise(x, sigma). States are divided by alpha, as everywhere in s4s."""
    sigma = s4s.grid("logsnr", process, nfe).to(x_T)
    alpha = 1 / (1 + sigma**2) ** 0.5  # the scheduler's states are of a variance preserving process
    scheduler = DPMSolverMultistepScheduler(solver_order=2, prediction_type="sample", final_sigmas_type="sigma_min")
    scheduler.set_timesteps(nfe)
    scheduler.sigmas = sigma.cpu()  # by their number, not by their times, does it look levels up
    x = alpha[0] * x_T
    for n, time in enumerate(scheduler.timesteps):
        x = scheduler.step(denoise(x / alpha[n], sigma[n]), time, x).prev_sample
    return x / alpha[-1]

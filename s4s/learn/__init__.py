"""How a solver is learned from a denoiser. Knows no model by name and no folder of results."""

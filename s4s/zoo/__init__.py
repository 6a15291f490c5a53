"""Solvers that can be had: those that come with the package, and those of others from their published files."""

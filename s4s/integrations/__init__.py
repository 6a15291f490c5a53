"""Fitted solvers inside other people's samplers."""

"""One file per model family: load weights, become a ``denoise``."""

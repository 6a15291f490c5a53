"""Images to numbers: features, metrics, named protocols and their references. Knows no solver."""

from s4s.errors import extra

with extra("benchmark"):  # said once, for the whole wing
    import PIL.Image as PIL  # noqa: F401

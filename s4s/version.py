"""The package's version, in a room of its own so that any other may know it."""

__version__ = "0.1.0"

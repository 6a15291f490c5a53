"""Images to numbers: features, metrics, named protocols and their references. Knows no solver."""

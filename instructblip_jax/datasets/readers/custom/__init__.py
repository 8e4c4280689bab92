"""The user's own files, whatever form they have: every format becomes rows with one set of columns (`row.py`)."""

from instructblip_jax.datasets.readers.custom.reading import release

__all__ = ["release"]

"""Reads the user's own files: rows of every format are mapped to one set of columns (`own_row.py`)."""

from instructblip_jax.datasets.readers.custom.reading import release

__all__ = ["release"]

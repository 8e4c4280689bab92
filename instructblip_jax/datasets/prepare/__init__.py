"""Rows of a release -> a TFDS data set in ArrayRecord shards: in parallel, resumable, with a report."""

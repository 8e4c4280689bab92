"""Rows of a release -> a TFDS dataset in ArrayRecord shards: in parallel, resumable, with a report."""

"""Evaluation: metrics (no model needed), predictions over a dataset, and the table of a suite's results."""

"""Answers judged: metrics without a model, predictions over a set, the table of a suite."""

"""Modules between a tower and a language model."""

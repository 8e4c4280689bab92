"""Losses without parameters."""

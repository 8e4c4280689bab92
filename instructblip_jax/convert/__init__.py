"""Conversion between Hugging Face checkpoints and our parameter trees, with one table for both directions."""

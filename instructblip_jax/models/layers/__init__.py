"""Building blocks that all model parts share."""

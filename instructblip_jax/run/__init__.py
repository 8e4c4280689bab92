"""One run: its configuration, its directory, its checkpoints."""

"""Official files and people's own -> prepared records."""

"""Official files and users' own -> prepared records."""

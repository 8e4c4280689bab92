"""Features of frozen towers, computed once and cached on disk."""

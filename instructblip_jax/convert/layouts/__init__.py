"""One module per public checkpoint layout: its config.json, its parts with prefixes, extra tensors in old files."""

"""One file a public checkpoint layout: its config.json, its parts with their prefixes, what old files hold on top."""

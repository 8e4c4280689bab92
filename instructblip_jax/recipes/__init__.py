"""Runs as papers state them, as configurations."""

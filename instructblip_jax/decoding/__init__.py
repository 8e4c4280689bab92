"""Tokens out of a system."""

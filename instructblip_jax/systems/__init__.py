"""Wirings: which parts make a model, what its loss is, which weights train."""

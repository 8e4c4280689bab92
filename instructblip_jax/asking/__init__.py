"""Questions generated from captions by a language model, and their checks."""

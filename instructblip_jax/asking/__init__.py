"""Questions that a language model makes of captions, and the checks that they pass."""

"""Turns pictures and videos from any source into encoded pictures that are known to decode, or a reason why not."""

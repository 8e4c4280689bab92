"""The train step over any system, and the loop around it."""

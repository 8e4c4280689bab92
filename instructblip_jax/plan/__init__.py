"""Memory and speed of a run: predictions before it starts, and the figures for comparison while it runs."""

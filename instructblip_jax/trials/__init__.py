"""Series of runs, each trained and evaluated in its own workdir, and comparisons of several systems by such runs."""

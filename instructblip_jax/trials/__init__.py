"""Series of runs, each trained and evaluated in a workdir of its own, and the comparison of several systems by them."""

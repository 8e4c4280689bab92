"""Fields of config.data.documents: what the papers read of a document with pictures."""

FLAMINGO = {"tokens": 256, "pictures": 5, "window": True}
"""arXiv 2204.14198."""

OPEN_FLAMINGO = {"tokens": 256, "pictures": 6, "pass_single": 0.5, "pictured": True}
"""arXiv 2308.01390, and its code. The pictures are the first in reading order, there those of the release's list."""

KOSMOS = {"pictures": 5, "pass_single": 0.5, "pack": True}
"""arXiv 2302.14045. The half of the single-picture documents that it drops is here drawn anew at each visit."""

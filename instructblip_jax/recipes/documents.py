"""Fields of config.data.documents: the parts of a document with images that the papers read."""

FLAMINGO = {"tokens": 256, "pictures": 5, "window": True}
"""arXiv 2204.14198."""

OPEN_FLAMINGO = {"tokens": 256, "pictures": 6, "pass_single": 0.5, "pictured": True}
"""arXiv 2308.01390, and its code. The images are the first in reading order; in that code, the first in the release's
list."""

KOSMOS = {"pictures": 5, "pass_single": 0.5, "pack": True}
"""arXiv 2302.14045. The half of the single-image documents that it drops is drawn anew at each visit here."""

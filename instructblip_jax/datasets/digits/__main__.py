"""Draw a test scene: python -m instructblip_jax.datasets.digits FILE.png [NUMBER]

Writes an enlarged image of test scene NUMBER (default 0) and prints its contents. Its handwriting is in no training
set.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from instructblip_jax.datasets.digits.scene import draw, render

ENLARGED = 480


def main(argv: list[str]) -> int:
    """Write the image and print the scene in words. Returns the exit status."""
    if not argv or len(argv) > 2 or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    rng = np.random.default_rng([20_000_000, int(argv[1]) if len(argv) == 2 else 0])
    scene = draw(rng)
    picture = Image.fromarray(render(scene, "test", rng))
    Path(argv[0]).parent.mkdir(parents=True, exist_ok=True)
    picture.resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC).save(argv[0])
    print(f"{argv[0]}: {scene.text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

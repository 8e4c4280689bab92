"""Put a finished comparison into docs/compare.md and README.md: python tools/compare_docs.py runs/compare

Copies W/compare.md and W/compare.png, as `instructblip compare` wrote them: all tables between the marks in
docs/compare.md, and the first table with its notes between those in README.md, if there are any.
"""

import argparse
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(?<=<!-- compare -->\n).*?(?=<!-- /compare -->)", re.DOTALL)
TITLE = re.compile(r"\n+(?:Held-in|Held-out|Retrieval|Few-shot)\n")
PICTURE = "![Scores over what a training sample costs](compare.png)\n\n"


def main() -> None:
    """Write both pages and docs/compare.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path, help="the workdir of the comparison")
    workdir = parser.parse_args().workdir
    table = (workdir / "compare.md").read_text(encoding="utf-8")
    shutil.copyfile(workdir / "compare.png", ROOT / "docs" / "compare.png")
    first = TITLE.split(table)[0] + "\n"
    for page, content in ((ROOT / "docs" / "compare.md", f"{PICTURE}{table}\n"), (ROOT / "README.md", first)):
        text = page.read_text(encoding="utf-8")
        page.write_text(MARKED.sub(lambda _, own=content: own, text), encoding="utf-8")
    print("docs/compare.md, docs/compare.png, README.md")


if __name__ == "__main__":
    main()

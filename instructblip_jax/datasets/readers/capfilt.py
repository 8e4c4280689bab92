"""Reads web CapFilt, web images with filtered captions, in the forms in circulation.

The first of these forms that is found is read:

1. annotation.json: rows {image, caption};
2. *.tar: img2dataset's shards, in the source or in one of its folders;
3. blip_laion_cc_sbu_558k.json, in LLaVA's form;
4. BLIP's lists of {url, caption} (ccs_filtered.json, ccs_synthetic_filtered.json, laion_synthetic_filtered_large.json),
   where an image file is named like the last part of its URL.

The source may also be a single file of any of these forms. The form of a row is recognized by its fields, so a list may
mix them. Image paths are relative to a root, or absolute within one.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.datasets.draft import Release, Rows
from instructblip_jax.datasets.readers.source_rows import find, nonempty, places
from instructblip_jax.datasets.readers.stores import store
from instructblip_jax.datasets.readers.web_pairs import listed, shards, shards_in

NAME = "capfilt"
LISTS = ("ccs_filtered.json", "ccs_synthetic_filtered.json", "laion_synthetic_filtered_large.json")
SUBSTITUTE = "blip_laion_cc_sbu_558k.json"


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images", "..")
    wanted = ("annotation.json", "*.tar", SUBSTITUTE, *LISTS)
    own = source if source.is_file() and source.suffix != ".tar" else None
    if path := own or find(source, *places("annotation.json")):
        return {"train": partial(listed, [path], NAME, "train", where)}
    if shards_in(source):
        return {"train": partial(shards, source, NAME, "train")}
    if path := find(source, *places(SUBSTITUTE)):
        return {"train": partial(listed, [path], NAME, "train", where)}
    paths = [path for name in LISTS if (path := find(source, *places(name)))]
    return nonempty({"train": partial(listed, paths, NAME, "train", where)} if paths else {}, source, *wanted)


RELEASE = Release(_splits, {"train": 13_873_136})

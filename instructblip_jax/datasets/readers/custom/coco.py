"""Reads COCO captions: {"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}."""

from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.custom.json_rows import within
from instructblip_jax.datasets.readers.custom.own_row import OwnRow, OwnRows
from instructblip_jax.datasets.readers.custom.splits import of_name


def rows(path: Path, encoding: str | None) -> OwnRows:
    """One row per caption for training; one row per image with all its captions if the file's name names another split.

    An image without a caption is skipped, unless no image in the file has one: captions are then to be generated.
    """
    split = of_name(path)
    held_out = split in ("validation", "test")
    images: dict[str, dict[str, Any]] = {}
    captions: dict[str, list[Any]] = {}
    held = 0
    for held, image in enumerate(within(path, encoding, "images"), 1):
        where = f"{path}:images/{held}"
        name = forms.id_text(image.get("id")) if isinstance(image, dict) else None
        if name is None or not isinstance(image.get("file_name"), str):
            yield Skip(where, "no id or file_name", str(image)[:60])
        elif name in images:
            yield Skip(where, "a second picture of an image id", f"{name}: {image['file_name'][:60]!r}")
        else:
            images[name] = image
    annotations = 0
    for annotations, entry in enumerate(within(path, encoding, "annotations"), 1):
        where = f"{path}:annotations/{annotations}"
        name = forms.id_text(entry.get("image_id")) if isinstance(entry, dict) else None
        if name is None or name not in images:
            yield Skip(where, "no such image id", str(entry.get("image_id") if isinstance(entry, dict) else entry)[:60])
            continue
        captions.setdefault(name, []).append(entry.get("caption"))
        if not held_out:
            fields = {"image": images[name]["file_name"], "answer": entry.get("caption"), "id": entry.get("id")}
            fields |= {"image_id": entry["image_id"], "task": "caption"}
            # an image's first caption also accounts for the image's own entry
            yield OwnRow(where, annotations, fields, path.parent, split, rows=1 + (len(captions[name]) == 1))
    for name, image in images.items():
        texts = captions.get(name, [])
        if not texts and (annotations or not held_out):
            yield Skip(f"{path}:{name}", "picture without a caption", image["file_name"][:60])
        elif held_out:
            fields = {"image": image["file_name"], "answer": texts, "image_id": image["id"], "id": image["id"]}
            yield OwnRow(f"{path}:{name}", name, fields | {"task": "caption"}, path.parent, split, rows=1 + len(texts))
    return held + annotations

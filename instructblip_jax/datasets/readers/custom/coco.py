"""COCO captions: {"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}."""

from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.custom.json_rows import within
from instructblip_jax.datasets.readers.custom.row import Row, Rows
from instructblip_jax.datasets.readers.custom.splits import of_name


def rows(path: Path, encoding: str | None) -> Rows:
    """In training a row a caption. Where the file's name says that it judges, a row a picture with all its captions.

    A picture without captions is told, unless nothing in the file has one: then they are to be made.
    """
    split = of_name(path)
    judging = split in ("validation", "test")
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
    for annotations, said in enumerate(within(path, encoding, "annotations"), 1):
        where = f"{path}:annotations/{annotations}"
        name = forms.id_text(said.get("image_id")) if isinstance(said, dict) else None
        if name is None or name not in images:
            yield Skip(where, "no such image id", str(said.get("image_id") if isinstance(said, dict) else said)[:60])
            continue
        captions.setdefault(name, []).append(said.get("caption"))
        if not judging:
            fields = {"image": images[name]["file_name"], "answer": said.get("caption"), "id": said.get("id")}
            fields |= {"image_id": said["image_id"], "task": "caption"}
            # the first caption of a picture stands for the picture's own entry, too
            yield Row(where, annotations, fields, path.parent, split, rows=1 + (len(captions[name]) == 1))
    for name, image in images.items():
        said = captions.get(name, [])
        if not said and (annotations or not judging):
            yield Skip(f"{path}:{name}", "picture without a caption", image["file_name"][:60])
        elif judging:
            fields = {"image": image["file_name"], "answer": said, "image_id": image["id"], "id": image["id"]}
            yield Row(f"{path}:{name}", name, fields | {"task": "caption"}, path.parent, split, rows=1 + len(said))
    return held + annotations

"""COCO captions: {"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instructblip_jax.data.draft import Skip
from instructblip_jax.data.readers.custom.json_rows import within
from instructblip_jax.data.readers.custom.row import Row
from instructblip_jax.data.readers.custom.splits import of_name


def rows(path: Path, encoding: str | None) -> Iterator[Row | Skip]:
    """In training a row a caption. Where the file's name says that it judges, a row a picture with all its captions."""
    split = of_name(path)
    names: dict[Any, str] = {}
    for number, image in enumerate(within(path, encoding, "images"), 1):
        where = f"{path}:images/{number}"
        if not isinstance(image, dict) or not _scalar(image.get("id")) or not isinstance(image.get("file_name"), str):
            yield Skip(where, "no id or file_name", str(image)[:60])
        else:
            names[image["id"]] = image["file_name"]
    captions: dict[Any, list] = {image: [] for image in names} if split in ("validation", "test") else {}
    for number, said in enumerate(within(path, encoding, "annotations"), 1):
        where = f"{path}:annotations/{number}"
        image = said.get("image_id") if isinstance(said, dict) else None
        if not isinstance(said, dict) or not _scalar(image) or image not in names:
            yield Skip(where, "no such image id", str(image)[:60])
        elif captions:
            captions[image].append(said.get("caption"))
        else:
            fields = {"image": names[image], "answer": said.get("caption"), "image_id": image, "id": said.get("id")}
            yield Row(where, number, fields | {"task": "caption"}, path.parent, split)
    for image, said in captions.items():
        fields = {"image": names[image], "answer": said, "image_id": image, "id": image, "task": "caption"}
        yield Row(f"{path}:{image}", str(image), fields, path.parent, split)


def _scalar(value: Any) -> bool:
    return isinstance(value, (int, str))

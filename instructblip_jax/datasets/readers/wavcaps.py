"""Reads WavCaps: json_files/SOURCE/*_final.json, objects whose "data" are rows with id, caption and duration; or one
list of such rows with audio_path, json_data.json. Audio files: SOURCE_flac/<id>.flac.

The lists in blacklist/ name clips of other sets' evaluation splits: each defines a split without these clips
("train_without_NAME"), and "train_zero_shot" excludes the clips of all of them. "train" has everything.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.datasets.draft import Release, Rows, Stream
from instructblip_jax.datasets.readers import captioned, forms
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text, need
from instructblip_jax.datasets.readers.json_files import Entry, elements, value
from instructblip_jax.datasets.readers.recordings import SOUNDS, recording
from instructblip_jax.datasets.readers.source_rows import Made, OtherSplit, drafts, nonempty
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "wavcaps"
FILES = {
    "as_final": "AudioSet_SL",
    "bbc_final": "BBC_Sound_Effects",
    "fsd_final": "FreeSound",
    "sb_final": "SoundBible",
}
"""The files of the release, and the folders of their audio files."""
LISTED = {"AudioSet_SL": "AudioSet"}
"""Sources that blacklists call by another name."""
OWN = "json_data.json"


def stem_of(file: str) -> str:
    """An id or file name without a folder and an audio extension."""
    file = file.rsplit("/", 1)[-1]
    return next((file[: -len(end)] for end in SOUNDS if file.lower().endswith(end)), file)


def _entries(paths: Sequence[Path]) -> Iterator[Entry]:
    """The rows of all files, each with its source."""
    for path in paths:
        rows: Iterable[Entry] = elements(path) if path.name == OWN else elements(path, "data")
        for where, row in rows:
            if isinstance(row, dict):
                told = str(row.get("audio_path") or "").split("/")
                folder = next((part.removesuffix("_flac") for part in told if part.endswith("_flac")), "")
                row = {**row, "source": FILES.get(path.stem, folder)}
            yield where, row


def _named(paths: Sequence[Path]) -> set[tuple[str, str]]:
    """(source, id) of all clips in the lists. Raises ValueError naming a list of another form."""
    found: set[tuple[str, str]] = set()
    for path in paths:
        lists = value(path)
        if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
            raise ValueError(f"{path}: is not an object of source -> list of names")
        found |= {(source, stem_of(str(name))) for source, names in lists.items() for name in names}
    return found


def _rows(paths: Sequence[Path], split: str, lists: Sequence[Path], where: Store) -> Stream:
    left_out = _named(lists)

    def make(row: SourceRow) -> Iterator[Made]:
        own = forms.id_text(need(row, "id"))
        if not own:
            raise BadRow("wrong type", "id")
        stem, source = stem_of(own), row["source"]
        if (LISTED.get(source, source), stem) in left_out:
            yield OtherSplit()
            return
        media = recording(where, [stem], [f"{source}_flac", source, f"waveforms/{source}_flac", ""])
        picture: captioned.Picture = (f"{source}/{stem}" if source else stem, media, {})
        yield from captioned.records(NAME, split, picture, [full_text(row, "caption")])

    return drafts(_entries(paths), make)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    folder = source.parent if source.is_file() else source
    if source.is_file():
        paths = [source] if source.name == OWN or source.stem in FILES else []
    elif (source / OWN).is_file():
        paths = [source / OWN]
    else:
        paths = [path for stem in FILES for path in sorted(source.rglob(f"{stem}.json"))[:1]]
    where = store(source, images, "..", "audio")
    if not paths:
        return nonempty({}, source, "json_files/*/{as,bbc,fsd,sb}_final.json", OWN)
    lists = sorted((folder / "blacklist").glob("*.json"))
    splits: dict[str, Rows] = {"train": partial(_rows, paths, "train", [], where)}
    for path in lists:
        split = f"train_without_{path.stem}"
        splits[split] = partial(_rows, paths, split, [path], where)
    if lists:
        splits["train_zero_shot"] = partial(_rows, paths, "train_zero_shot", lists, where)
    return splits


RELEASE = Release(_splits, {"train": 403_050})

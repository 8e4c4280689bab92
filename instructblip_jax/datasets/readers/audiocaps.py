"""Reads AudioCaps: {train,val,test}.csv with the columns audiocap_id, youtube_id, start_time and caption.

A training split has one record per row. The other splits have five rows per clip, which are the references of one
record. Audio files are in SPLIT/, audio/SPLIT/, audio/ or waveforms/SPLIT/, under any of the names in use: ID_START,
YID, ID, ID_START000; videos are also accepted. From a file longer than the clip, the ten seconds from start_time on are
used.

audiocaps_qa, questions generated from the captions by a language model (X-InstructBLIP, arXiv 2311.18799): the same
columns with question and answer, in audiocaps_qa_SPLIT.csv or SPLIT_qa.csv.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import VIDEO, Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers import captioned, made_questions
from instructblip_jax.datasets.readers.captioned import Picture
from instructblip_jax.datasets.readers.csv_files import table
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text, need
from instructblip_jax.datasets.readers.recordings import recording
from instructblip_jax.datasets.readers.source_rows import find, nonempty, places, training
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.videos import video

NAME, QA = "audiocaps", "audiocaps_qa"
SPLITS = ("train", "val", "test")
SECONDS = 10.0
"""The length of a clip in seconds."""


def names_of(youtube_id: str, start: float) -> list[str]:
    """The names in use for a clip's file, without extension. ``start``: seconds."""
    whole = int(start)
    return [f"{youtube_id}_{whole}", f"Y{youtube_id}", youtube_id, f"{youtube_id}_{whole}000"]


def seconds(value: Any, name: str) -> float:
    """A time in seconds. Raises BadRow unless it is a non-negative number."""
    told = str(value).strip()
    try:
        found = float(told)
    except ValueError:
        raise BadRow("wrong type", f"{name}: {told[:40]}") from None
    if not 0 <= found < 1e6:
        raise BadRow("wrong type", f"{name}: {told[:40]}")
    return found


def folders_of(*splits: str) -> list[str]:
    """The folders in which the clips of one of ``splits`` may be."""
    return [f"{above}{split}" for split in splits for above in ("", "audio/", "waveforms/", "videos/")] + [
        *("audio", "waveforms", "videos", ""),
    ]


def clip(where: Store, split: str, row: SourceRow) -> Picture:
    """Id, audio clip and meta of a row."""
    youtube_id, start = full_text(row, "youtube_id"), seconds(need(row, "start_time"), "start_time")
    media = recording(where, names_of(youtube_id, start), folders_of(split), start, start + SECONDS)
    return f"{youtube_id}_{int(start)}", media, {"youtube_id": youtube_id, "start": start}


def film(where: Store, youtube_id: str, start: float, *splits: str) -> Media:
    """The video of a clip."""
    names, folders = names_of(youtube_id, start), folders_of(*splits)
    found = video(where, names, folders, f"{folders[0]}/{names[0]}.mp4")
    return Media(found.path, kind=VIDEO, start=start, end=start + SECONDS)


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    found = partial(clip, where, split)
    if training(split):
        return captioned.listing(table(path), NAME, split, found)
    return captioned.by_picture(table(path), NAME, split, "caption", found)


def _asked(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    def shown(row: SourceRow) -> tuple[str, tuple[Media, ...]]:
        image_id, media, _ = clip(where, split, row)
        assert isinstance(media, Media)
        return str(image_id), (media,)

    return made_questions.rows(lambda: table(path), QA, split, shown, made_questions.HEARD)


def _splits(
    read: Callable[[Path, str, Store], Iterator[Draft | Skip]],
    forms: Sequence[str],
    source: Path,
    images: Sequence[Path],
) -> Mapping[str, Rows]:
    where = store(source, images, "../audiocaps")
    splits: dict[str, Rows] = {}
    for split in SPLITS:
        names = [place for form in forms for place in places(form.format(split))]
        if path := find(source, *names):
            splits[split] = partial(read, path, split, where)
    return nonempty(splits, source, *(form.format("{train,val,test}") for form in forms))


RELEASE = Release(partial(_splits, _rows, ["{}.csv"]), {"train": 49_838, "val": 495, "test": 975})
QUESTIONS = Release(partial(_splits, _asked, ["audiocaps_qa_{}.csv", "{}_qa.csv"]))

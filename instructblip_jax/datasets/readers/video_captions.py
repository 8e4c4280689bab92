"""Reads videos with captions: MSRVTT, MSVD, VATEX and WebVid.

msrvtt_caption: {train_val,test}_videodatainfo.json or videodatainfo_2016.json, objects of videos, with their split,
and sentences. msvd_caption: AllVideoDescriptions.txt, "CLIP CAPTION" per line, divided by the numbers of
youtube_mapping.txt: 1 to 1200 are "train", to 1300 "val", the rest "test". vatex:
vatex_{training,validation,public_test_english}_v*.json, rows {videoID, enCap}; in addition to "val" and "test" with
video, there are the same with video and audio ("val_joint"), and with only audio ("val_audio"). Each of the three also
from LAVIS's cap_{train,val,test}.json, rows {video, caption}.

webvid: results_{2M,10M}_{train,val}.csv or {train,val}.csv, with the columns videoid, name and page_dir, or others like
them; videos/<page_dir>/<videoid>.mp4 or <videoid>.mp4, cut to the part given by the columns start and end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import AUDIO
from instructblip_jax.datasets.draft import VIDEO, Media, Release, Rows, Skip, Stream
from instructblip_jax.datasets.readers import captioned
from instructblip_jax.datasets.readers.audiocaps import seconds
from instructblip_jax.datasets.readers.captioned import Picture
from instructblip_jax.datasets.readers.csv_files import table
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text, need, typed
from instructblip_jax.datasets.readers.json_files import Entry, elements
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.text_files import lines
from instructblip_jax.datasets.readers.video_qa import MSRVTT_FOLDERS, MSVD_FOLDERS, clips
from instructblip_jax.datasets.readers.videos import video

MSRVTT, MSVD, VATEX, WEBVID = "msrvtt_caption", "msvd_caption", "vatex", "webvid"
SPLITS = ("train", "val", "test")
OFFICIAL = {"train": "train", "val": "validate", "test": "test"}
VATEX_FILES = {"train": "training", "val": "validation", "test": "public_test_english"}
JOINT, ALONE = "_joint", "_audio"
IDS, TEXTS = ("videoid", "id", "video"), ("name", "caption", "text")
Shown = Callable[[Media], tuple[Media, ...]]
"""A video -> the media of a record."""


def _film(media: Media) -> tuple[Media, ...]:
    return (media,)


def _sound(media: Media) -> tuple[Media, ...]:
    return (Media(media.path, kind=AUDIO, start=media.start, end=media.end),)


def _both(media: Media) -> tuple[Media, ...]:
    return (media, *_sound(media))


def _named(where: Store, folders: Sequence[str], stem: str, shown: Shown) -> Picture:
    return stem, shown(video(where, [stem], folders, f"{folders[0]}/{stem}.mp4".lstrip("/"))), {}


def _listed(path: Path, name: str, split: str, where: Store, folders: Sequence[str], shown: Shown) -> Stream:
    """LAVIS's form: one caption per row in training, all of a video's in other splits."""

    def picture(row: SourceRow) -> Picture:
        file = full_text(row, "video").rsplit("/", 1)[-1]
        return _named(where, folders, file.rpartition(".")[0] or file, shown)

    return captioned.listed(path, name, split, picture)


def _grouped(entries: Iterator[Entry], field: str) -> tuple[dict[str, list[str]], list[Skip], int]:
    """Video -> its captions, from rows {``field``, caption}; the rows without captions, and the number of rows."""
    found: dict[str, list[str]] = {}
    broken, held = [], 0
    for place, row in entries:
        held += 1
        try:
            if not isinstance(row, dict):
                raise row if isinstance(row, BadRow) else BadRow("not an object")
            found.setdefault(full_text(row, field), []).append(typed(need(row, "caption"), str, "caption"))
        except BadRow as bad:
            broken.append(Skip(place, bad.reason, bad.detail))
    return found, broken, held


def _msrvtt(paths: Sequence[Path], split: str, where: Store) -> Stream:
    """The videos of a split in their files' order, with all sentences about them."""
    held = 0
    own, other = ("TestVideo", "TrainValVideo") if split == "test" else ("TrainValVideo", "TestVideo")
    for path in paths:
        said, broken, _ = _grouped(elements(path, "sentences"), "video_id")
        if split == "train":
            yield from broken
            held += len(broken)

        def make(row: SourceRow, said: Mapping[str, list[str]] = said) -> Iterator[Made]:
            stem = full_text(row, "video_id")
            if not said.get(stem):
                raise BadRow("empty answer", "no caption")
            picture = _named(where, (own, other, *MSRVTT_FOLDERS), stem, _film)
            yield from captioned.records(MSRVTT, split, picture, said[stem])

        rows = (
            (place, row)
            for place, row in elements(path, "videos")
            if not isinstance(row, dict) or row.get("split") == OFFICIAL[split]
        )
        held += yield from drafts(rows, make)
    return held


def _descriptions(path: Path) -> Iterator[Entry]:
    for number, line in lines(path):
        if line.strip() and not line.startswith("#"):
            clip, _, caption = line.strip().partition(" ")
            yield f"{path}:{number}", {"clip": clip, "caption": caption}


def _msvd(path: Path, mapping: Path, split: str, where: Store) -> Stream:
    numbers = {clip: int(name.removeprefix("vid")) for name, clip in clips(mapping).items()}
    said, broken, held = _grouped(_descriptions(path), "clip")
    if split == "train":  # reported once
        yield from broken
    else:
        held -= len(broken)
    own: list[Entry] = []
    for clip, captions in said.items():
        number = numbers.get(clip)
        if number is None and split == "train":
            own.append((f"{path}:{clip}", {"captions": captions}))
        elif number is None or split != ("train" if number <= 1200 else "val" if number <= 1300 else "test"):
            held -= len(captions)
        else:
            own.append((f"{path}:{clip}", {"clip": clip, "number": number, "captions": captions}))

    def make(row: SourceRow) -> Iterator[Made]:
        if "clip" not in row:
            raise BadRow("clip without a number")
        clip = row["clip"]
        media = video(where, [clip, f"vid{row['number']}"], MSVD_FOLDERS, f"{MSVD_FOLDERS[0]}/{clip}.avi")
        yield from captioned.records(MSVD, split, (clip, media, {}), row["captions"])

    yield from drafts(own, make, lambda row: len(row["captions"]))
    return held


def _vatex(path: Path, split: str, where: Store, shown: Shown) -> Stream:
    def make(row: SourceRow) -> Iterator[Made]:
        picture = _named(where, ("videos", *VATEX_FILES.values(), ""), full_text(row, "videoID"), shown)
        yield from captioned.records(VATEX, split, picture, need(row, "enCap"))

    return drafts(elements(path), make)


def _webvid(path: Path, split: str, where: Store) -> Stream:
    def make(row: SourceRow) -> Iterator[Made]:
        own = full_text(row, next((name for name in IDS if name in row), IDS[0]))
        said = need(row, next((name for name in TEXTS if name in row), TEXTS[0]))
        folder = str(row.get("page_dir") or "").strip("/")
        inside = [f"videos/{folder}", folder] if folder else []
        stem = own.removesuffix(".mp4")
        media = video(where, [stem], (*inside, "videos", ""), f"videos/{stem}.mp4")
        start, end = (seconds(row[name], name) if row.get(name) else None for name in ("start", "end"))
        media = Media(media.path, kind=VIDEO, start=start or 0.0, end=end)
        yield from captioned.records(WEBVID, split, (stem, media, {}), [said])

    return drafts(table(path), make)


def _lavis(
    name: str, source: Path, where: Store, folders: Sequence[str], senses: Mapping[str, Shown]
) -> dict[str, Rows]:
    return {
        split + sense: partial(_listed, path, name, split + sense, where, folders, shown)
        for split in SPLITS
        if (path := find(source, *places(f"cap_{split}.json")))
        for sense, shown in senses.items()
        if not (sense and split == "train")
    }


def _msrvtt_splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    folders = ("videos", "TrainValVideo", "TestVideo", *MSRVTT_FOLDERS)
    splits = _lavis(MSRVTT, source, where, folders, {"": _film})
    names = ("videodatainfo_2016.json", "train_val_videodatainfo.json", "test_videodatainfo.json")
    paths = [path for name in names if (path := find(source, *places(name)))]
    paths = paths[:1] if paths and paths[0].name == names[0] else paths
    for split in SPLITS if paths else ():
        kept = [path for path in paths if path.name == names[0] or (path.name == names[2]) == (split == "test")]
        if kept:
            splits.setdefault(split, partial(_msrvtt, kept, split, where))
    return nonempty(splits, source, *names, "cap_{train,val,test}.json")


def _msvd_splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    folder = source.parent if source.is_file() else source
    splits = _lavis(MSVD, source, where, MSVD_FOLDERS, {"": _film})
    path, mapping = find(source, "AllVideoDescriptions.txt"), find(folder, *places("youtube_mapping.txt"))
    if path and mapping:
        for split in SPLITS:
            splits.setdefault(split, partial(_msvd, path, mapping, split, where))
    return nonempty(splits, source, "AllVideoDescriptions.txt with youtube_mapping.txt", "cap_{train,val,test}.json")


def _vatex_splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    senses: dict[str, Shown] = {"": _film, JOINT: _both, ALONE: _sound}
    splits = _lavis(VATEX, source, where, ("videos", ""), senses)
    for split, file in VATEX_FILES.items():
        found = [source] if source.is_file() else sorted(source.glob(f"vatex_{file}_v*.json"))
        for path in [path for path in found if path.match(f"vatex_{file}_v*.json")][:1]:
            for sense, shown in senses.items() if split != "train" else [("", _film)]:
                splits.setdefault(split + sense, partial(_vatex, path, split + sense, where, shown))
    return nonempty(splits, source, "vatex_{training,validation,public_test_english}_v*.json", "cap_{train,val}.json")


def _webvid_splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    splits: dict[str, Rows] = {}
    for split in ("train", "val"):
        names = (f"results_2M_{split}.csv", f"results_10M_{split}.csv", f"{split}.csv")
        if path := find(source, *names):
            splits[split] = partial(_webvid, path, split, where)
    return nonempty(splits, source, "results_{2M,10M}_{train,val}.csv", "{train,val}.csv")


RELEASES = {
    MSRVTT: Release(_msrvtt_splits, {"train": 130_260, "val": 497, "test": 2_990}),
    MSVD: Release(_msvd_splits, {"val": 100, "test": 670}),
    VATEX: Release(_vatex_splits, {"val": 3_000, "test": 6_000}),
    WEBVID: Release(_webvid_splits),
}

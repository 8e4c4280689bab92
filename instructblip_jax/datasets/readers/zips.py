"""Images that are still in a release's ZIP archive."""

import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.fields import BadRow

HEAD = 30
"""Bytes of a member's header before its name; the last four are the lengths of the name and of the extra field after it
(PKWARE's APPNOTE, 4.3.7)."""


@lru_cache(maxsize=4)
def _members(path: Path) -> Mapping[str, tuple[int, int, int]]:
    """Name -> offset of its header, bytes in the archive, method of compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [one for one in archive.infolist() if not one.is_dir()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a complete ZIP archive ({error}); fetch it again") from error
    return {one.filename: (one.header_offset, one.compress_size, one.compress_type) for one in files}


def member(path: Path, *names: str) -> Media | None:
    """The first of ``names`` in the archive ``path``, None if it has none. It is read in place if it is not compressed.

    Raises BadRow for a member that cannot be unpacked, ValueError naming an archive that is cut off.
    """
    members = _members(path)
    name = next((name for name in names if name in members), None)
    if name is None:
        return None
    offset, size, method = members[name]
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(HEAD)
        start = offset + HEAD + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:], "little")
        if method == zipfile.ZIP_STORED:
            return Media(path, start, size)
        file.seek(start)
        packed = file.read(size)
    try:
        if method != zipfile.ZIP_DEFLATED:
            raise ValueError(f"compression method {method}")
        return Media(data=zlib.decompress(packed, -zlib.MAX_WBITS))
    except (ValueError, zlib.error) as error:
        raise BadRow("broken archive member", f"{path.name}: {name} ({error})") from error

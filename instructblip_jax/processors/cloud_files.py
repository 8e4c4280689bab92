"""Files of point clouds and meshes: .npy, .npz, PLY, OBJ, OFF and text tables, detected by their bytes.

Sizes that a file declares are checked against its actual size before any memory is allocated.
"""

import io
import itertools
import math
import re
import zipfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.image import MAX_BYTES

CORRUPT = "truncated or corrupt point cloud"
FORMATS = ".npy, .npz, PLY, OBJ, OFF, and text with 3 or more numbers a line"
MOST_LINES = 5_000_000
LONGEST_LINE = 65_536
MOST_MEMBERS = 1_000
"""Maximum number of files in an .npz archive."""
MOST_HEADER = 1 << 16
"""Limit of a PLY file's header in bytes."""
ONLY = "arr_0"
"""NumPy's name of an array saved without a name, as in ULIP's and Cap3D's files."""


class Cloud(NamedTuple):
    """``points`` float64 [N, 3]; ``faces`` of a mesh: triangles of point indices int [F, 3], or None."""

    points: np.ndarray
    faces: np.ndarray | None = None


def read(data: bytes, name: str) -> Cloud:
    """A file's points. Raises UnusableMediaError."""
    try:
        if data.startswith(b"\x93NUMPY"):
            return _npy(data, name)
        if data.startswith(b"PK"):
            return _npz(data, name)
        if re.match(rb"ply\r?\n", data):
            return _ply(data, name)
        return _text(data, name)
    except UnusableMediaError:
        raise
    except Exception as error:  # parsers raise many kinds on corrupt data
        raise UnusableMediaError(CORRUPT, f"{name}: {error}; fetch it again") from error


# NumPy's


def _npy(data: bytes, name: str) -> Cloud:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = header(file)
    if dtype.kind not in "iuf" or len(shape) != 2 or shape[1] < 3:
        detail = f"{name}: {dtype} {shape}; numbers [points, 3 or more] are needed; save such an array"
        raise UnusableMediaError("not a point cloud", detail)
    if math.prod(shape) * dtype.itemsize > len(data) - file.tell():
        raise UnusableMediaError(CORRUPT, f"{name}: ends before its {shape[0]:,} points; fetch it again")
    numbers = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return Cloud(numbers.reshape(shape, order="F" if columns_first else "C")[:, :3].astype(np.float64))


def _npz(data: bytes, name: str) -> Cloud:
    if data.count(b"PK\x01\x02") > MOST_MEMBERS:
        raise UnusableMediaError("too large", f"{name}: more than {MOST_MEMBERS:,} files; save one array alone")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if ONLY not in members and len(members) != 1:
            detail = f"{name}: holds {', '.join(list(members)[:9]) or 'nothing'}; save one array alone, or as {ONLY}"
            raise UnusableMediaError("not a point cloud", detail)
        member = members.get(ONLY) or next(iter(members.values()))
        with archive.open(member) as file:
            content = file.read(MAX_BYTES + 1)  # for any declared size
    if len(content) > MAX_BYTES:
        raise UnusableMediaError("too large", f"{name}: more than {MAX_BYTES >> 20} MiB uncompressed; use fewer points")
    return _npy(content, name)


# Text

Lines = Iterable[bytes]


def _lines(data: bytes, name: str) -> list[bytes]:
    """The lines of a text, without comments and empty lines. Raises UnusableMediaError."""
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data.count(b"\n") >= MOST_LINES:
        raise UnusableMediaError("too large", f"{name}: more than {MOST_LINES:,} lines; store fewer points")
    ends = np.flatnonzero(np.frombuffer(data + b"\n", np.uint8) == ord("\n"))
    if np.diff(ends, prepend=-1).max() > LONGEST_LINE or b"\0" in data:
        raise UnusableMediaError("not a point cloud", f"{name}: none of {FORMATS}; convert it to one of these")
    lines = (line.split(b"#", 1)[0].strip() for line in data.split(b"\n"))
    return [line for line in lines if line]


def _numbers(lines: Lines, columns: tuple[int, ...] = (0, 1, 2), delimiter: str | None = None) -> np.ndarray:
    """Some columns of lines of numbers, float64 [N, columns]."""
    texts = (line.decode("latin-1") for line in lines)
    return np.loadtxt(texts, np.float64, comments=None, delimiter=delimiter, usecols=columns, ndmin=2)


def _text(data: bytes, name: str) -> Cloud:
    lines = _lines(data, name)
    if not lines:
        raise UnusableMediaError("no points", f"{name}: holds none; leave it out")
    if found := re.match(rb"C?OFF\b|C?OFF(?=\d)", lines[0]):
        return _off([line for line in (lines[0][found.end() :].strip(), *lines[1:]) if line], name)
    if any(line.startswith((b"v ", b"v\t")) for line in itertools.islice(lines, 1_000)):
        return _obj(lines)
    return Cloud(_table(lines, name))


def _table(lines: list[bytes], name: str) -> np.ndarray:
    """Lines of 3 or more numbers separated by commas, semicolons or blanks; the first may be a header."""
    delimiter = next((mark for mark in (",", ";") if mark.encode() in lines[-1]), None)
    if not _is_numbers(lines[0], delimiter):
        lines = lines[1:]
    if not lines or not _is_numbers(lines[0], delimiter):
        raise UnusableMediaError("not a point cloud", f"{name}: none of {FORMATS}; convert it to one of these")
    return _numbers(lines, delimiter=delimiter)


def _is_numbers(line: bytes, delimiter: str | None) -> bool:
    fields = line.decode("latin-1").split(delimiter)[:3]
    try:
        return len([float(field) for field in fields]) == 3
    except ValueError:
        return False


def _off(lines: list[bytes], name: str) -> Cloud:
    points, faces = (int(count) for count in lines[0].split()[:2])
    if points < 0 or faces < 0 or points + faces > len(lines) - 1:
        raise UnusableMediaError(CORRUPT, f"{name}: {points:,} points and {faces:,} faces; fetch it again")
    if not points:
        raise UnusableMediaError("no points", f"{name}: holds none; leave it out")
    corners = ((int(x) for x in line.split()[1 : 1 + int(line.split(None, 1)[0])]) for line in lines[1 + points :])
    return _mesh(_numbers(lines[1 : 1 + points]), itertools.islice(corners, faces))


def _obj(lines: list[bytes]) -> Cloud:
    points = _numbers((line for line in lines if line.startswith((b"v ", b"v\t"))), (1, 2, 3))

    def corners() -> Iterator[Iterable[int]]:
        seen = 0
        for line in lines:
            seen += line.startswith((b"v ", b"v\t"))
            if line.startswith((b"f ", b"f\t")):
                numbers = (int(field.split(b"/", 1)[0]) for field in line.split()[1:])
                yield [number - 1 if number > 0 else seen + number for number in numbers]

    return _mesh(points, corners())


def _mesh(points: np.ndarray, polygons: Iterable[Iterable[int]]) -> Cloud:
    """Polygons of point indices become fans of triangles. Raises ValueError for an index that is out of range."""
    triangles = []
    for polygon in polygons:
        first, *others = polygon
        triangles += [(first, a, b) for a, b in itertools.pairwise(others)]
        if len(triangles) > MOST_LINES:
            raise ValueError(f"more than {MOST_LINES:,} triangles")
    if not triangles:
        return Cloud(points)
    faces = np.array(triangles, np.int64)
    if faces.min() < 0 or faces.max() >= len(points):
        raise ValueError("a face has a corner that is no point")
    return Cloud(points, faces)


# PLY

TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float": "f4",
    "double": "f8",
    "float32": "f4",
    "float64": "f8",
}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class _Element(NamedTuple):
    size: int
    names: list[str]
    types: list[str]


def _ply(data: bytes, name: str) -> Cloud:
    """The vertices of a PLY file; its faces and colours are not read."""
    end = re.compile(rb"\nend_header[ \t]*\r?\n").search(data, 0, MOST_HEADER)
    if end is None:
        raise UnusableMediaError(CORRUPT, f"{name}: its header has no end; fetch it again")
    header = [line.split() for line in data[: end.start()].decode("latin-1").splitlines()]
    order, elements = "", dict[str, _Element]()
    for words in header:
        if words[:1] == ["format"]:
            order = words[1]
        elif words[:1] == ["element"]:
            elements[words[1]] = _Element(int(words[2]), [], [])
        elif words[:1] == ["property"]:
            element = list(elements.values())[-1]
            element.types.append("list" if words[1] == "list" else TYPES[words[1]])
            element.names.append(words[-1])
    before = itertools.takewhile(lambda element: element != "vertex", elements)
    vertex = elements.get("vertex")
    if order not in ORDERS or vertex is None or not {"x", "y", "z"} <= set(vertex.names) or "list" in vertex.types:
        detail = f"{name}: no element vertex with x, y and z as ascii or binary; write it anew"
        raise UnusableMediaError("not a point cloud", detail)
    if vertex.size < 1:
        raise UnusableMediaError("no points", f"{name}: holds none; leave it out")
    columns = tuple(vertex.names.index(axis) for axis in "xyz")
    earlier = [elements[one] for one in before]
    ends_early = UnusableMediaError(CORRUPT, f"{name}: ends before its {vertex.size:,} points; fetch it again")
    if order == "ascii":
        lines = _lines(data[end.end() :], name)[sum(element.size for element in earlier) :][: vertex.size]
        if len(lines) < vertex.size:
            raise ends_early
        return Cloud(_numbers(lines, columns))
    if any("list" in element.types or element.size < 0 for element in earlier):
        raise UnusableMediaError("not a point cloud", f"{name}: lists before its vertices; write the vertices first")
    offset = end.end() + sum(element.size * _dtype(element, order).itemsize for element in earlier)
    dtype = _dtype(vertex, order)
    if vertex.size * dtype.itemsize > len(data) - offset:
        raise ends_early
    rows = np.frombuffer(data, dtype, vertex.size, offset)
    return Cloud(np.stack([rows[f"f{column}"] for column in columns], 1).astype(np.float64))


def _dtype(element: _Element, order: str) -> np.dtype:
    """The record of an element in binary; its fields are f0, f1 ..., since names may occur twice."""
    return np.dtype([(f"f{n}", ORDERS[order] + kind) for n, kind in enumerate(element.types)])

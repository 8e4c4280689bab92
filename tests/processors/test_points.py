"""Point clouds of any kind become points around their mean, or one of few reasons."""

import io
import itertools
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from instructblip_jax.processors import cloud_files, points
from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.points import PointProcessor

CLOUD = np.random.default_rng(0).uniform(-3, 5, (40, 3)).round(3)
EIGHT = PointProcessor(count=8)


def saved(array, **more) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **more) if more else np.save(buffer, array)
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def table(rows, between: str = " ", before: str = "", start: str = "") -> bytes:
    lines = (start + between.join(f"{x:.6f}" for x in row) for row in rows)
    return (before + "\n".join(lines) + "\n").encode()


def ply(order: str, count: int | None = None, body: bytes | None = None) -> bytes:
    """Vertices with colours in between, in the order z, x, y, behind an element of another kind."""
    head = f"ply\nformat {order} 1.0\ncomment one\nelement camera 1\nproperty float f\n"
    head += f"element vertex {count or len(CLOUD)}\n"
    head += "property double z\nproperty uchar red\nproperty double x\nproperty float32 confidence\nproperty double y\n"
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    if body is None and order == "ascii":
        body = b"1.5\n" + b"".join(b"%f 255 %f 0.5 %f\n" % (z, x, y) for x, y, z in CLOUD) + b"3 0 1 2\n"
    elif body is None:
        mark = {"binary_little_endian": "<", "binary_big_endian": ">"}[order]
        body = struct.pack(mark + "f", 1.5)
        body += b"".join(struct.pack(mark + "dBdfd", z, 255, x, 0.5, y) for x, y, z in CLOUD)
        body += struct.pack(mark + "B3i", 3, 0, 1, 2)
    return head.encode() + body


def counts(points: int, faces: int, before: str = "OFF\n") -> str:
    return f"{before}{points} {faces} 0\n"


SQUARE = np.array([[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]])
FILES = {
    "npy": saved(CLOUD),
    "big endian": saved(CLOUD.astype(">f8")),
    "columns first": saved(np.asfortranarray(CLOUD)),
    "with colours": saved(np.hstack([CLOUD, np.ones((40, 3))])),
    "arr_0": saved(None, arr_0=CLOUD, other=np.ones(3)),
    "the only array": saved(None, xyz=CLOUD),
    "ascii": ply("ascii"),
    "little": ply("binary_little_endian"),
    "big": ply("binary_big_endian"),
    "dos": ply("ascii").replace(b"\n", b"\r\n"),
    "obj": b"# made by hand\no thing\n" + table(CLOUD, start="v ") + b"vn 0 0 1\n",
    "off": table(CLOUD, before=counts(40, 0)),
    "one line": table(CLOUD, before="OFF" + counts(40, 0, "")),
    "coloured off": table(np.hstack([CLOUD, np.ones((40, 4))]), before=counts(40, 0, "COFF\n# by hand\n")),
    "xyz": table(CLOUD),
    "txt": table(np.hstack([CLOUD, np.zeros((40, 3))]), "\t", "# x y z nx ny nz\n\n"),
    "csv": table(CLOUD, ", ", "x,y,z\n"),
    "semicolons": table(CLOUD, ";", "\ufeffx;y;z\n"),
}
MESHES = {
    "off": table(SQUARE, before=counts(4, 1)) + b"4 0 1 2 3 255 0 0\n",
    "obj": table(SQUARE, start="v ") + b"f 1/1/1 2//2 3 4\n",
    "obj from the end": table(SQUARE, start="v ") + b"f -4 -3 -2\nf -4 -2 -1\nv 9 9 9\n",
}


def reason(content, name: str = "a cloud", processor: PointProcessor = EIGHT) -> str:
    with pytest.raises(UnusableMediaError, match=name) as caught:
        processor.values(content, name)
    return caught.value.reason


def normalised(cloud: np.ndarray) -> np.ndarray:
    away = cloud - cloud.mean(0)
    return away / np.linalg.norm(away, axis=1).max()


@pytest.mark.parametrize("kind", FILES)
def test_files_of_every_kind(tmp_path, kind):
    found = PointProcessor(count=40).values(FILES[kind])
    assert (found.shape, found.dtype) == ((40, 3), np.float32)
    np.testing.assert_allclose(found, normalised(CLOUD), atol=1e-6)
    (tmp_path / "a").write_bytes(FILES[kind])
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a")  # names say nothing
    np.testing.assert_array_equal(PointProcessor(count=40).values(str(tmp_path / "b.jpg")), found)


@pytest.mark.parametrize("kind", MESHES)
def test_meshes_are_sampled_evenly_over_their_faces(kind):
    found = points.points_of(MESHES[kind], "a", 4000)
    assert found.shape == (4000, 3)
    assert not found[:, 2].any()
    quarters = np.histogram2d(found[:, 0], found[:, 1], bins=2, range=[[0, 4], [0, 4]])[0]
    np.testing.assert_allclose(quarters, 1000, atol=120)
    np.testing.assert_array_equal(points.points_of(MESHES[kind], "a", 4000), found)


def test_faces_without_area_leave_the_corners():
    flat = table(np.ones((3, 3)), before=counts(3, 1)) + b"3 0 1 2\n"
    np.testing.assert_array_equal(points.points_of(flat, "a", 9), np.ones((3, 3)))


def test_more_points_are_drawn_and_fewer_repeated():
    whole = normalised(CLOUD).astype(np.float32)
    less = EIGHT.values(CLOUD)
    places = [int(np.flatnonzero((whole == row).all(1))[0]) for row in less]
    assert places == sorted(set(places))  # different ones, in their order
    more = PointProcessor(count=100).values(CLOUD)
    np.testing.assert_array_equal(more[:40], whole)
    assert {tuple(row) for row in more[40:]} <= {tuple(row) for row in whole}
    for count in (8, 100):
        np.testing.assert_array_equal(PointProcessor(count).values(CLOUD), PointProcessor(count).values(saved(CLOUD)))
    half = np.concatenate([np.zeros((5000, 3)), np.ones((5000, 3))])
    assert 3900 < (PointProcessor(8192).values(half) > 0).all(1).sum() < 4300


def test_single_points_and_coordinates_that_are_no_numbers():
    assert not EIGHT.values(np.ones((1, 3))).any()
    assert not EIGHT.values(np.full((5, 3), 0.1)).any()
    holed = np.vstack([CLOUD, [np.nan, 0, 0], [0, np.inf, 0], [0, 0, 1e300]])
    np.testing.assert_array_equal(PointProcessor(40).values(holed), PointProcessor(40).values(CLOUD))
    assert reason(np.full((5, 3), np.nan)) == "no points"
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(PointProcessor(40).values(CLOUD * scale), normalised(CLOUD), atol=1e-6)


def test_a_million_points_are_soon_read():
    many = np.random.default_rng(1).standard_normal((1_000_000, 3)).astype(np.float32)
    began = time.process_time()
    assert PointProcessor().values(saved(many)).shape == (8192, 3)
    assert time.process_time() - began < 5


# What cannot be read


def test_each_reason(tmp_path, monkeypatch):
    pickled = saved(np.array([[{}] * 3] * 2, object))
    for want, content in {
        "empty file": b"",
        "missing point cloud": tmp_path / "gone.ply",
        "no points": b"# nothing\n",
        "not a point cloud": pickled,
        "truncated or corrupt point cloud": FILES["npy"][:-1],
        "too large": bytes(cloud_files.MOST_LINES * 2).replace(b"\0\0", b"1\n"),
    }.items():
        assert reason(content, "gone" if "missing" in want else "a cloud") == want
    huge = FILES["npy"].replace(b"(40, 3)", b"(9999999999, 3)".ljust(7))
    for broken in (
        huge,
        FILES["arr_0"][:200],
        ply("binary_big_endian", 2**31, b"\0" * 100),
        ply("ascii", 2**31),
        ply("ascii").replace(b"end_header", b"end_hexer"),
        table(CLOUD, before=counts(2**31, 0)),
        table(CLOUD, before=counts(41, 0)),
        table(SQUARE, before=counts(4, 1)) + b"3 0 1 4\n",
        table(SQUARE, start="v ") + b"f 0 1 2\n",
        table(CLOUD) + b"1 2\n",
        table(CLOUD) + b"1 2 three\n",
    ):
        assert reason(broken) == cloud_files.CORRUPT
    for other in (
        saved(np.ones(3)),
        saved(np.ones((9, 2))),
        saved(np.ones((9, 3), complex)),
        saved(None, a=CLOUD, b=CLOUD),
        zipped("arr_0.npy", pickled),
        np.ones((2, 9, 3)),
        np.full((9, 3), "a"),
        b"these are words\n",
        b"1 " * 100_000,
        b"(" * 100_000,
        b"\x89PNG\r\n\x1a\n\0\0\0",
        ply("ascii").replace(b" x\n", b" u\n"),
        None,
    ):
        assert reason(other) == "not a point cloud"
    assert reason(ply("ascii").replace(b"vertex 40", b"vertex 0")) == "no points"
    monkeypatch.setattr("instructblip_jax.processors.content.MAX_BYTES", 100)
    assert reason(FILES["npy"]) == "too large"


def test_archives_that_unpack_to_too_much_are_not_unpacked():
    bomb = zipped("arr_0.npy", FILES["npy"][:128] + bytes(60 << 20))  # 60 MiB in 60 KiB
    assert len(bomb) < 1 << 20
    lying = bytearray(bomb)
    at = lying.rindex(b"PK\x01\x02") + 24
    lying[at : at + 4] = struct.pack("<I", 1088)  # as if it were small
    tracemalloc.start()
    for archive in (bomb, bytes(lying)):
        assert reason(archive) in ("too large", cloud_files.CORRUPT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20
    assert reason(b"PK\x01\x02" * 2000) == "too large"


def test_damaged_files_are_read_or_refused():
    """210 of them, of all kinds."""
    rng = np.random.default_rng(2)
    read, refusals = 0, []
    tracemalloc.start()
    for number, whole in zip(range(210), itertools.cycle((*FILES.values(), *MESHES.values())), strict=False):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[int(rng.integers(1, len(data))) :]
        else:
            for place in rng.integers(0, (len(data), min(len(data), 300))[number % 2], 1 + number % 3):
                data[place] = rng.integers(256)
        try:
            values = EIGHT.values(bytes(data), "a mutant")
        except UnusableMediaError as error:
            refusals.append(error.detail)
        else:
            assert values.shape == (8, 3)
            assert np.abs(values).max() <= 1
            read += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert min(read, len(refusals)) > 30
    assert all(detail.startswith("a mutant") for detail in refusals)

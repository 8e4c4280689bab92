"""A stand-in for Google Cloud Storage: the part of its JSON interface that gcsfs, TensorStore and google-cloud-storage
use, over a dict. Uploads appear whole or not at all, as there.
"""

import base64
import contextlib
import datetime
import itertools
import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c

OBJECT = re.compile(r"(?:/download|/upload)?/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)")
COPY = re.compile(OBJECT.pattern + r"/(?:rewriteTo/b/[^/]+|copyTo/b/[^/]+|moveTo)/o/(?P<to>[^/]+)")


class Bucket:
    """The objects by name, and a running number for their generations."""

    def __init__(self, name: str):
        self.name = name
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.lock = threading.RLock()
        self.numbers = itertools.count(1)

    def put(self, name: str, content: bytes) -> dict:
        with self.lock:
            self.objects[name] = (content, next(self.numbers))
            return self.describe(name)

    def describe(self, name: str) -> dict:
        """The object's resource. Raises KeyError."""
        content, generation = self.objects[name]
        time = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=generation)
        checksum = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
        return {
            "kind": "storage#object",
            "id": f"{self.name}/{name}/{generation}",
            "bucket": self.name,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "crc32c": checksum,
            "updated": time.isoformat().replace("+00:00", "Z"),
            "timeCreated": time.isoformat().replace("+00:00", "Z"),
        }

    def listing(self, query: dict[str, str]) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix) or not start <= name < end:
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if found:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(self.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *args) -> None:
        pass

    def answer(self, status: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/octet-stream" if content is body else "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def missing(self) -> None:
        self.answer(404, {"error": {"code": 404, "message": f"no such object: {self.path}"}})

    def split(self) -> tuple[str, dict[str, str]]:
        parts = urllib.parse.urlsplit(self.path)
        return parts.path, dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def stale(self, name: str, query: dict[str, str]) -> bool:
        """Whether a condition on the object's generation fails; 0 stands for "not there"."""
        wanted = query.get("ifGenerationMatch")
        return wanted is not None and int(wanted) != self.bucket.objects.get(name, (b"", 0))[1]

    def do_GET(self) -> None:
        path, query = self.split()
        if path == f"/storage/v1/b/{self.bucket.name}":
            self.answer(200, {"kind": "storage#bucket", "id": self.bucket.name, "name": self.bucket.name})
        elif path == f"/storage/v1/b/{self.bucket.name}/o":
            with self.bucket.lock:
                self.answer(200, self.bucket.listing(query))
        elif (match := OBJECT.fullmatch(path)) and match["bucket"] == self.bucket.name:
            name = urllib.parse.unquote(match["name"])
            with self.bucket.lock:
                if name not in self.bucket.objects:
                    self.missing()
                elif query.get("alt") == "media":
                    self.media(*self.bucket.objects[name])
                else:
                    self.answer(200, self.bucket.describe(name))
        else:
            self.missing()

    def media(self, content: bytes, generation: int) -> None:
        head = {"X_Goog_Generation": str(generation), "X_Goog_Metageneration": "1"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.answer(200, content, **head)
        if asked[1]:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        else:
            first, last = max(0, len(content) - int(asked[2])), len(content) - 1
        if first >= len(content):
            return self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
        return self.answer(206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}", **head)

    def do_POST(self) -> None:
        path, query = self.split()
        body = self.body()
        if "upload_id" in query:
            self.chunk(query, body)
        elif path == f"/upload/storage/v1/b/{self.bucket.name}/o":
            self.upload(query, body)
        elif match := COPY.fullmatch(path):
            source, to = urllib.parse.unquote(match["name"]), urllib.parse.unquote(match["to"])
            with self.bucket.lock:
                there = self.bucket.objects.get(source)
                resource = self.bucket.put(to, there[0]) if there else {}
                if "moveTo" in path:
                    self.bucket.objects.pop(source, None)
            self.answer(200 if there else 404, {"done": True, "resource": resource, **resource})
        else:
            self.missing()

    def upload(self, query: dict[str, str], body: bytes) -> None:
        kind, name = query.get("uploadType"), query.get("name", "")
        if kind == "resumable":
            name = name or json.loads(body)["name"]
            number = str(next(self.bucket.numbers))
            self.bucket.uploads[number] = (name, bytearray())
            place = f"http://{self.headers['Host']}/upload/storage/v1/b/{self.bucket.name}/o?upload_id={number}"
            return self.answer(200, {}, Location=place)
        with self.bucket.lock:
            if self.stale(name, query):
                return self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            return self.answer(200, self.bucket.put(name, body))

    def do_PUT(self) -> None:
        self.chunk(self.split()[1], self.body())

    def chunk(self, query: dict[str, str], body: bytes) -> None:
        place = self.headers.get("Content-Range", "bytes */*")
        name, parts = self.bucket.uploads[query["upload_id"]]
        parts += body
        if place.endswith("/*"):
            return self.answer(308, b"", Range=f"bytes=0-{len(parts) - 1}")
        del self.bucket.uploads[query["upload_id"]]
        return self.answer(200, self.bucket.put(name, bytes(parts)))

    def remove(self, path: str, query: dict[str, str]) -> int:
        name = urllib.parse.unquote(OBJECT.fullmatch(path)["name"])
        with self.bucket.lock:
            if self.stale(name, query):
                return 412
            return 204 if self.bucket.objects.pop(name, None) else 404

    def do_DELETE(self) -> None:
        self.answer(self.remove(*self.split()))


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up, or are killed."""

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve(name: str) -> Iterator[tuple[Bucket, dict[str, str]]]:
    """A bucket, and the environment in which gs:// means this server."""
    bucket = Bucket(name)
    server = Server(("127.0.0.1", 0), type("Served", (Handler,), {"bucket": bucket}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield (
            bucket,
            {
                "STORAGE_EMULATOR_HOST": address,  # gcsfs and google-cloud-storage
                "TENSORSTORE_GCS_HTTP_URL": address,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks another service what kind of bucket it is
                "GOOGLE_CLOUD_PROJECT": "none",
                "NO_GCE_CHECK": "true",
            },
        )
    finally:
        server.shutdown()
        server.server_close()

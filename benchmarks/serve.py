"""`instructblip serve` under many clients, against one client at a time, in the same run.

    python benchmarks/serve.py [--model digits] [--clients 64] [--seconds 20] [--rows 16] [--json FILE]

Starts the server in a process of its own. First one client asks one request after the other, then all clients do so at
once. Every answer under load must be the one that the same request got alone. Beside tokens per second and latencies:
errors by status, the server's memory before and after the load, and, in this process, the time of a step of one row and
of all rows, which is what batching itself gives. Compilation is not timed.
"""

import argparse
import base64
import collections
import http.client
import io
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from instructblip_jax import embedded  # noqa: E402
from instructblip_jax.run import trained  # noqa: E402
from instructblip_jax.serving.engine import Engine  # noqa: E402
from instructblip_jax.serving.limits import Limits  # noqa: E402
from instructblip_jax.serving.metrics import Metrics  # noqa: E402

TEXTS = ("list all digits with place and colour", "describe the picture", "which digit is top-left ?")
REQUESTS = 48
MAX_TOKENS, MAX_PROMPT = 64, 64


def requests(model: str) -> list[bytes]:
    """The bodies of different requests, each about a picture of its own."""
    found = []
    for n in range(REQUESTS):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(n).integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        parts = [{"type": "text", "text": TEXTS[n % 3]}, {"type": "image_url", "image_url": {"url": url}}]
        found.append(json.dumps({"model": model, "messages": [{"role": "user", "content": parts}]}).encode())
    return found


class Load:
    """Clients that ask for some seconds, and what came back."""

    def __init__(self, port: int, bodies: list[bytes], clients: int, seconds: float):
        self.port, self.bodies, self.lock = port, bodies, threading.Lock()
        self.latencies: list[float] = []
        self.statuses: collections.Counter[int] = collections.Counter()
        self.answers: dict[int, set[str]] = collections.defaultdict(set)
        self.tokens = 0
        begun = time.perf_counter()
        self.until = begun + seconds
        threads = [threading.Thread(target=self._client, args=(n,)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds = time.perf_counter() - begun

    def _client(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while time.perf_counter() < self.until:
            place = number % len(self.bodies)
            begun = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", self.bodies[place], {"Content-Type": "application/json"})
            response = connection.getresponse()
            said = json.loads(response.read())
            with self.lock:
                self.statuses[response.status] += 1
                if response.status == 200:
                    self.latencies.append(time.perf_counter() - begun)
                    self.tokens += said["usage"]["completion_tokens"]
                    self.answers[place].add(said["choices"][0]["message"]["content"])
            number += 7
        connection.close()

    def report(self) -> dict:
        """Tokens and requests per second, latencies in milliseconds, errors by status."""
        cuts = statistics.quantiles(self.latencies, n=100)
        return {
            "tokens_per_second": self.tokens / self.seconds,
            "requests_per_second": len(self.latencies) / self.seconds,
            "p50_ms": 1e3 * cuts[49],
            "p99_ms": 1e3 * cuts[98],
            "statuses": dict(self.statuses),
        }


def step_seconds(directory: str, rows: tuple[int, ...]) -> dict[int, float]:
    """The fewest seconds of a step, by rows."""
    model, processor = trained.load(directory, None, dtype="float32")
    engines = {}
    for count in rows:
        limits = Limits(rows=count, queue=1, max_tokens=MAX_TOKENS, max_prompt=MAX_PROMPT)
        engine = engines[count] = Engine(model, processor, Metrics(), limits)
        engine.prepare()
        engine.slots.step().fetched()
    found: dict[int, list[float]] = {count: [] for count in rows}
    for _ in range(200):  # in turns, so that both see the same machine
        for count, engine in engines.items():
            begun = time.perf_counter()
            engine.slots.step().fetched()
            found[count].append(time.perf_counter() - begun)
    return {count: min(seconds) for count, seconds in found.items()}


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits", help="an embedded model's name")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--json")
    args = parser.parse_args()
    flags = [f"--rows={args.rows}", f"--max_tokens={MAX_TOKENS}", f"--max_prompt={MAX_PROMPT}", "--dtype=float32"]
    command = [sys.executable, "-m", "instructblip_jax", "serve", f"--model={args.model}", "--port=0", *flags]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())[1])
        bodies = requests(args.model)
        Load(port, bodies, 4, 2)  # threads, caches
        alone = Load(port, bodies, 1, args.seconds)
        before = memory(server.pid)
        together = Load(port, bodies, args.clients, args.seconds)
        after = memory(server.pid)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/metrics")
        compiled = re.search(r"^serve_compilations_total (\S+)", connection.getresponse().read().decode(), re.M)[1]
    finally:
        server.terminate()
        code = server.wait(90)
    known = [place for place in together.answers if place in alone.answers]
    differing = [place for place in known if together.answers[place] != alone.answers[place]]
    steps = step_seconds(str(embedded.model(args.model)), (1, args.rows))
    result = {
        "alone": alone.report(),
        "together": together.report(),
        "clients": args.clients,
        "rows": args.rows,
        "step_ms": {count: 1e3 * seconds for count, seconds in steps.items()},
        "batch_speed_up": args.rows * steps[1] / steps[args.rows],
        "requests_compared": len(known),
        "answers_that_differ": len(differing),
        "compilations": float(compiled),
        "rss_before": before,
        "rss_after": after,
        "exit_status": code,
    }
    result["speed_up"] = result["together"]["tokens_per_second"] / result["alone"]["tokens_per_second"]
    for name in ("alone", "together"):
        row = result[name]
        print(
            f"{name:>8}: {row['tokens_per_second']:7.1f} tokens/s  {row['requests_per_second']:6.1f} requests/s  "
            f"p50 {row['p50_ms']:.0f} ms  p99 {row['p99_ms']:.0f} ms  {row['statuses']}"
        )
    print(f"speed-up {result['speed_up']:.1f}; of a step alone, {args.rows} rows: {result['batch_speed_up']:.1f}")
    print(f"step of 1 row {1e3 * steps[1]:.2f} ms, of {args.rows} rows {1e3 * steps[args.rows]:.2f} ms")
    print(f"{len(known)} requests compared, {len(differing)} answers differ; compiled under load: {compiled}")
    print(f"memory {before >> 20} MiB before the load, {after >> 20} MiB after it; exit status {code}")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))
    if differing or code:
        sys.exit(1)


if __name__ == "__main__":
    main()

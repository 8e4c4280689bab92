"""gs:// paths, over a stand-in for the service: the commands as users type them, in processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import gcs
import pytest
from PIL import Image

STEPS = 30
RUN = "gs://bucket/runs/one"


@pytest.fixture(scope="module")
def cloud():
    with gcs.serve("bucket") as (bucket, environment):
        yield bucket, environment


@pytest.fixture(scope="module")
def call(environment, cloud, tmp_path_factory):
    """Runs one command line with the stand-in for gs://."""
    cache = tmp_path_factory.mktemp("cache")

    def run(*argv: object, wait: bool = True) -> subprocess.CompletedProcess | subprocess.Popen:
        command = [sys.executable, "-m", "instructblip_jax", *map(str, argv)]
        env = environment() | cloud[1] | {"XDG_CACHE_HOME": str(cache)}
        if wait:
            return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        return subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    run.cache = cache
    return run


@pytest.fixture(scope="module")
def model(world, cloud):
    """The model's files in the bucket, and one that is no part of it."""
    bucket, _ = cloud
    for path in (world / "model").rglob("*"):
        if path.is_file():
            bucket.put(f"models/tiny/{path.relative_to(world / 'model')}", path.read_bytes())
    bucket.put("models/tiny/pytorch_model.bin", b"not needed")
    return "gs://bucket/models/tiny"


@pytest.fixture(scope="module")
def trained(call, cloud, world, model):
    """A run whose workdir and model are in the bucket, killed once after its first checkpoint; its second half."""
    bucket, _ = cloud
    given = ("train", f"--config={world / 'tiny.py'}", f"--workdir={RUN}", f"--config.model={model}")
    first = call(*given, wait=False)
    deadline = time.monotonic() + 240
    while "runs/one/checkpoints/14/commit_success.txt" not in bucket.objects and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    result = call(*given, "--json=gs://bucket/one.json")
    assert result.returncode == 0, result.stderr
    return result, json.loads(bucket.objects["one.json"][0])


def test_a_run_in_a_bucket_is_killed_goes_on_and_ends_as_one_on_a_disk(cloud, trained, finished):
    bucket, _ = cloud
    (result, report), (_, local) = trained, finished
    assert re.search("from step (14|21|28)$", result.stdout, re.MULTILINE)
    assert report["weights_sha256"] == local["weights_sha256"]
    assert report["losses"] == local["losses"]
    assert json.loads(bucket.objects["runs/one/train.json"][0]) == report
    assert len(bucket.objects["runs/one/metrics.jsonl"][0].splitlines()) == STEPS
    steps = {name.split("/")[3] for name in bucket.objects if name.startswith("runs/one/checkpoints/")}
    assert steps == {"21", "28", "30"}
    assert not [name for name in bucket.objects if name.endswith(".partial")]


def test_evaluate_writes_its_tables_into_the_bucket(call, cloud, world, model, trained):
    bucket, _ = cloud
    given = (f"--config={world / 'tiny.py'}", f"--workdir={RUN}", f"--config.model={model}")
    result = call("evaluate", *given, "--json=gs://bucket/table.json")
    assert result.returncode == 0, result.stderr
    report = json.loads(bucket.objects["table.json"][0])
    assert report["step"] == STEPS
    assert report == json.loads(bucket.objects["runs/one/evaluation.json"][0])
    assert bucket.objects["runs/one/evaluation.md"][0].decode() in result.stdout
    assert len(bucket.objects["runs/one/predictions/count.jsonl"][0].splitlines()) == 8


def test_answer_reads_the_run_in_the_bucket(call, cloud, model, trained, tmp_path):
    bucket, _ = cloud
    Image.new("RGB", (31, 17), (90, 90, 90)).save(tmp_path / "one.png")
    asked = (f"--image={tmp_path / 'one.png'}", "which digit ?", "--max_new_tokens=5", "--json=gs://bucket/a.json")
    result = call("answer", f"--model={model}", f"--workdir={RUN}", *asked)
    assert result.returncode == 0, result.stderr
    assert [row["answer"] for row in json.loads(bucket.objects["a.json"][0])["answers"]] == [result.stdout.strip()]


def test_export_skips_a_damaged_checkpoint_in_the_bucket(call, cloud, model, trained, tmp_path):
    bucket, _ = cloud
    name, out = "runs/one/checkpoints/30/state/manifest.ocdbt", tmp_path / "out"
    content, _ = bucket.objects[name]
    bucket.put(name, content[:50])
    try:
        result = call("export", f"--model={model}", f"--workdir={RUN}", f"--out={out}", "--json=gs://bucket/e.json")
    finally:
        bucket.put(name, content)
    assert result.returncode == 0, result.stderr
    assert "skipped step 30" in result.stdout
    assert json.loads(bucket.objects["e.json"][0])["step"] == 28
    assert (out / "config.json").exists()


# Models

RESOLVE = "import sys; from instructblip_jax.hub import resolve; print(resolve(sys.argv[1]))"


def resolve(environment, cloud, cache, name: str) -> subprocess.CompletedProcess:
    env = environment() | cloud[1] | {"XDG_CACHE_HOME": str(cache)}
    return subprocess.run([sys.executable, "-c", RESOLVE, name], env=env, capture_output=True, text=True, check=False)


def test_a_model_in_a_bucket_is_copied_once(environment, cloud, world, model, tmp_path):
    done = resolve(environment, cloud, tmp_path, model)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "instructblip_jax" / "gs" / "bucket" / "models" / "tiny"
    assert done.stdout.strip() == str(copy)
    files = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(world / "model"): path.read_bytes() for path in (world / "model").rglob("*") if path.is_file()
    }


def test_a_large_file_is_not_fetched_again_and_a_short_one_is(environment, cloud, tmp_path):
    bucket, _ = cloud
    weights = os.urandom((1 << 20) + 5)
    bucket.put("models/large/config.json", b"{}")
    bucket.put("models/large/model.safetensors", weights)
    assert resolve(environment, cloud, tmp_path, "gs://bucket/models/large").returncode == 0
    copy = tmp_path / "instructblip_jax" / "gs" / "bucket" / "models" / "large"
    kept = (copy / "model.safetensors").stat().st_mtime_ns
    (copy / "model.safetensors.index.json").write_text("{}")  # of another model, under the same name
    bucket.put("models/large/config.json", b"[]")
    assert resolve(environment, cloud, tmp_path, "gs://bucket/models/large").returncode == 0
    assert (copy / "model.safetensors").stat().st_mtime_ns == kept
    assert {path.name for path in copy.iterdir()} == {"config.json", "model.safetensors"}
    assert (copy / "config.json").read_bytes() == b"[]"
    (copy / "model.safetensors").write_bytes(weights[:-1])
    assert resolve(environment, cloud, tmp_path, "gs://bucket/models/large").returncode == 0
    assert (copy / "model.safetensors").read_bytes() == weights


def test_no_model_in_the_bucket(environment, cloud, tmp_path):
    done = resolve(environment, cloud, tmp_path, "gs://bucket/models/none")
    assert "gs://bucket/models/none: no config.json there" in done.stderr


# What is not done


def test_sets_and_model_directories_are_not_written_into_a_bucket(cli, world, tmp_path):
    for argv, word in (
        (("prepare", "digits", "--out=gs://bucket/sets"), "gcsfuse"),
        (
            (
                "train",
                f"--config={world / 'tiny.py'}",
                f"--workdir={tmp_path / 'w'}",
                "--config.data.directory=gs://b/s",
            ),
            "gcsfuse",
        ),
        (("export", f"--model={world / 'model'}", "--out=gs://bucket/out"), "only local directories are written"),
        (("convert", "--blip2=a", "--bert=b", "--out=gs://bucket/out"), "only local directories are written"),
    ):
        result = cli(*argv)
        assert result.code == 1
        assert word in result.err
        assert result.err.count("\n") == 1


def test_without_the_packages_that_read_buckets_there_is_one_line(cli, world, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    result = cli("train", f"--config={world / 'tiny.py'}", "--workdir=gs://bucket/run")
    assert result.code == 2
    assert result.err.endswith("gs:// paths need two more packages: pip install -e '.[gcs]'\n")
    assert cli("train", "--help").code == 0

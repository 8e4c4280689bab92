"""Compiled programs are kept between commands: where, how many, and that nothing depends on them."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from instructblip_jax import compile_cache
from instructblip_jax.__main__ import COMMANDS, COMPILING


@pytest.fixture
def environ(monkeypatch, tmp_path):
    """The environment of somebody who set nothing but where caches lie."""
    environ = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "caches")}
    monkeypatch.setattr(os, "environ", environ)
    return environ


def test_the_folder_is_the_users_and_bounded(environ, tmp_path):
    assert compile_cache.use() == ""
    assert environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "caches" / "instructblip_jax")
    assert environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(4 * 2**30)
    assert 0 < float(environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) < 0.1


@pytest.mark.parametrize("caches", [None, ""])
def test_without_xdg_it_lies_in_the_home(environ, tmp_path, caches):
    environ.pop("XDG_CACHE_HOME")
    if caches is not None:
        environ["XDG_CACHE_HOME"] = caches
    assert compile_cache.use() == ""
    assert environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "home" / ".cache" / "instructblip_jax")


@pytest.mark.parametrize("chosen", ["elsewhere", "gs://bucket/compiled", ""])
def test_another_folder_is_its_owners_and_so_is_none(environ, tmp_path, chosen):
    environ |= {"JAX_COMPILATION_CACHE_DIR": chosen, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "7"}
    before = dict(environ)
    assert compile_cache.use() == ""
    assert environ == before
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_and_not_used(environ, tmp_path):
    (tmp_path / "caches").write_text("a file, where the folder should be")
    assert str(tmp_path / "caches") in compile_cache.use()
    assert "JAX_COMPILATION_CACHE_DIR" not in environ


def test_a_full_disk_is_told_and_not_used(environ, monkeypatch, tmp_path):
    full = shutil.disk_usage(tmp_path)._replace(free=2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert "instructblip_jax: the disk has 0.5 GiB free, at least 1 GiB is needed" in compile_cache.use()
    assert "JAX_COMPILATION_CACHE_DIR" not in environ


def test_a_program_that_was_not_written_to_its_end_is_removed(environ, tmp_path):
    folder = tmp_path / "caches" / "instructblip_jax"
    folder.mkdir(parents=True)
    for name in ("jit_whole-1-cache", "jit_whole-1-atime", "jit_half-2-cache"):
        (folder / name).write_bytes(b"")
    compile_cache.use()
    assert {path.name for path in folder.glob("jit_*")} == {"jit_whole-1-cache", "jit_whole-1-atime"}


def test_help_names_it_for_the_commands_that_compile():
    code = "from instructblip_jax.__main__ import main; import sys; sys.exit(main(sys.argv))"
    for name in ("answer", "score"):
        done = subprocess.run([sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, check=True)
        said = [word in done.stdout for word in ("~/.cache/instructblip_jax", "4 GiB", "JAX_COMPILATION_CACHE_DIR=DIR")]
        assert said == [name in COMPILING] * 3
    assert set(COMPILING) < set(COMMANDS)


def test_a_second_run_compiles_nothing_anew_and_is_the_same_run(environment, world, tmp_path):
    """The same losses and weights, bit for bit; the folder holds what it held."""
    environ = {**environment(1), "XDG_CACHE_HOME": str(tmp_path)}
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        environ.pop(name)
    reports, kept = [], []
    for run in ("cold", "warm"):
        argv = ["train", f"--config={world}/tiny.py", f"--workdir={tmp_path / run}", f"--json={tmp_path / run}.json"]
        command = [sys.executable, "-m", "instructblip_jax", *argv, "--config.steps=4"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        assert "note:" not in done.stderr
        reports.append(json.loads((tmp_path / f"{run}.json").read_text()))
        kept.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / "instructblip_jax").glob("*-cache")})
    cold, warm = reports
    assert cold["losses"] == warm["losses"]
    assert cold["weights_sha256"] == warm["weights_sha256"]
    assert any(name.startswith("jit_") for name in kept[0])
    assert {name: kept[1].get(name) for name in kept[0]} == kept[0]

"""launch/constraints.txt: everything that setup.py asks for is pinned, within its ranges; and what the extras bring."""

import re
import runpy
from collections import defaultdict
from pathlib import Path
from unittest import mock

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "launch" / "constraints.txt").read_text(encoding="utf-8").splitlines()
PYTHONS = ["3.11.7", "3.12.1", "3.13.0"]


def declared() -> dict:
    """The arguments that setup.py hands to setuptools."""
    with mock.patch.object(setuptools, "setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def pinned(python: str) -> dict[str, Version]:
    """Name -> version, on Linux with this Python; each name once."""
    environment = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    found = defaultdict(list)
    for line in LINES:
        if not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                [exact] = requirement.specifier
                found[requirement.name.lower()].append(Version(exact.version))
    assert all(len(versions) == 1 for versions in found.values())
    return {name: versions[0] for name, versions in found.items()}


def test_each_line_is_a_name_with_one_version_and_no_place_it_comes_from():
    shape = re.compile(r"[a-z0-9.-]+==[a-z0-9.]+( ; [^/@:]+)?")
    assert [line for line in LINES if not line.startswith("#") and not shape.fullmatch(line)] == []
    head = [line for line in LINES if line.startswith("#")]
    assert head[-1].split()[1:] == ["uv", "pip", "compile", "setup.py", "--upgrade"]
    assert not [line for line in head if "/" in line]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_is_pinned_within_what_setup_py_allows(python):
    setup = declared()
    extras = {name: wanted for name, wanted in setup["extras_require"].items() if name != "beam"}
    versions = pinned(python)
    checked = 0
    for line in [*setup["install_requires"], *(line for wanted in extras.values() for line in wanted)]:
        wanted = Requirement(line)
        assert versions[wanted.name.lower().replace("_", "-")] in wanted.specifier, line
        checked += 1
    assert checked > 40
    assert {"jaxlib", "libtpu", "protobuf", "jax-cuda12-plugin"} <= versions.keys()  # and what these need in turn


@pytest.mark.parametrize("launch", ["launch/tpu_slice.sh", "launch/gke.sh", "launch/Dockerfile"])
def test_what_a_slice_installs_by_default_can_write_to_a_bucket(launch):
    """As README's command for a slice does, whose workdir is gs://BUCKET/run."""
    defaults = set(re.findall(r"EXTRA(?::-|=)([a-z,]+)", (ROOT / launch).read_text(encoding="utf-8")))
    assert len(defaults) == 1
    extras = declared()["extras_require"]
    installed = {Requirement(line).name for extra in defaults.pop().split(",") for line in extras[extra]}
    assert installed >= {"jax", *(Requirement(line).name for line in extras["gcs"])}


def test_every_advice_names_what_a_checkout_can_install():
    """There is no release of the package on an index, and its name there may be anybody's."""
    extras = declared()["extras_require"]
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("launch/*")]
    named = set()
    for path in [*pages, *ROOT.glob("instructblip_jax/**/*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "pip install" in line:
                assert "instructblip_jax[" not in line, path
                named |= set(re.findall(r"-e '\.\[([a-z0-9-]+)\]'", line))
    assert {"tpu", "gcs", "demo", "beam", "original", "plan-gpu"} <= named <= extras.keys()

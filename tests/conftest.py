"""Eight fake CPU devices for every test, and one cache of compiled programs, set before jax is imported."""

import os

from compiling import CACHE, FLAGS, THREADS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {FLAGS}"
for name, value in (CACHE | THREADS).items():
    os.environ.setdefault(name, value)
pytest_plugins = ["worlds"]


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, help="how often test_kills.py kills `train`; by hand: 50")

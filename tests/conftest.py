"""Eight fake CPU devices for every test, set before jax is imported. Compiling is most of what the tests do, so the
compiler's last stage (machine code, not the program's own passes) optimizes nothing: that halves their time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
pytest_plugins = ["worlds"]


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, help="how often test_kills.py kills `train`; by hand: 50")

"""The digits world's models: one ships complete, the others are assembled at first use from parts that ship.

`assemble` runs in a separate process, because a run must not start JAX before it knows its mesh.
"""

import hashlib
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

ASSETS = Path(str(files("instructblip_jax") / "assets"))
MADE: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "digits-llama": (("instructblip",), {"model": "digits", "language": "digits_llama"}),
    "digits-frozen": (("frozen",), {"vision": "digits_clip", "language": "digits_context"}),
    "digits-flamingo": (
        ("flamingo", "--every=1", "--queries=4"),
        {"vision": "digits_clip", "language": "digits_context"},
    ),
    "digits-kosmos": (("kosmos-1",), {"vision": "digits_clip", "language": "digits_kosmos"}),
    "digits-llava": (("llava",), {"vision": "digits_clip", "language": "digits_llama"}),
    "digits-llava-linear": (
        ("llava", "--projector=linear"),
        {"vision": "digits_clip", "language": "digits_llama"},
    ),
    "digits-frozen-scenes": (("frozen", "--queries=16"), {"vision": "digits_clip", "language": "digits_llama"}),
    "digits-flamingo-scenes": (
        ("flamingo", "--every=1", "--queries=16"),
        {"vision": "digits_clip", "language": "digits_llama"},
    ),
    "digits-kosmos-scenes": (("kosmos-1",), {"vision": "digits_clip", "language": "digits_kosmos_scenes"}),
    "digits-stage1": (("blip-2", "--queries=16"), {"vision": "digits", "bert": "digits_bert"}),
    "digits-stage2": (("blip-2",), {"vision": "digits", "language": "digits", "bert": "digits_bert"}),
    "digits-blip2-llama": (("blip-2",), {"qformer": "digits", "language": "digits_llama"}),
    "digits-x-scenes": (("x-instructblip",), {"image": "digits", "language": "digits_llama"}),
    "digits-blip": (("blip",), {"vision": "digits", "bert": "digits_bert"}),
    "digits-albef": (("albef",), {"vision": "digits", "bert": "digits_bert"}),
    "digits-two-queries": (("blip-2", "--queries=2"), {"vision": "digits", "bert": "digits_senses_bert"}),
    "digits-x": (
        ("x-instructblip",),
        {
            "image": "digits-two-queries",
            "video": "digits-two-queries",
            "audio": "digits_beats",
            "pc": "digits_point_bert",
            "language": "digits_senses",
            "bert": "digits_senses_bert",
        },
    ),
}
"""Model -> its system with flags, and part -> folder in `ASSETS` or a model above it, as `assemble` takes them."""
NAMES = ("digits", *MADE)
"""The names of all embedded models."""


def model(name: str) -> Path:
    """The directory of an embedded model: "digits", which ships complete, or one of `MADE`.

    The latter are in ~/.cache/instructblip_jax/models (below $XDG_CACHE_HOME, if that is set), under names that change
    with the parts. Raises ValueError for another name, RuntimeError if the model cannot be assembled.
    """
    if name == "digits":
        return ASSETS / name
    if name not in MADE:
        raise ValueError(f"there is no embedded model {name!r}; expected one of {', '.join(NAMES)}")
    system, folders = MADE[name]
    parts = {part: model(folder) if folder in MADE else ASSETS / folder for part, folder in folders.items()}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "instructblip_jax" / "models"
    out = cache / f"{name}-{_digest(system, parts)}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_suffix(".lock")):
        if not (out / "config.json").is_file():
            flags = [f"--{part}={folder}" for part, folder in parts.items()]
            command = [sys.executable, "-m", "instructblip_jax", "assemble", *system, *flags, f"--out={out}"]
            done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name}: could not be assembled in {out}\n{done.stderr.strip()}")
    return out


def _digest(system: tuple[str, ...], parts: dict[str, Path]) -> str:
    """Eight hex digits of the system with its flags, and of everything in the parts' folders."""
    found = hashlib.sha256(" ".join(system).encode())
    for folder in parts.values():
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder.parent)
                found.update(f"{name} {path.stat().st_size} ".encode() + path.read_bytes())
    return found.hexdigest()[:8]

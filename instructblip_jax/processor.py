"""The public Processor, which loads the processor of any system."""

from pathlib import Path
from typing import Any

from instructblip_jax import families, hub
from instructblip_jax.processors.base import BaseProcessor


class Processor(BaseProcessor):
    """Media and texts -> a system's batch, and its ids -> texts; see `processors.base.BaseProcessor`."""

    @classmethod
    def from_pretrained(cls, model: str | Path, **options: Any) -> BaseProcessor:
        """The processor of the system named in config.json, from a directory in its layout or a hub id.

        ``options`` are system-specific, the same with which its model was loaded, such as ``image_size``. Raises
        FileNotFoundError or ValueError naming the file.
        """
        directory = hub.resolve(model)
        family = families.family_of(directory)
        return family.processor(directory, family.read_config(directory / "config.json").configured(**options))

"""A mock tenth system: a linear bridge from a toy tower to a toy language model. As a script: the command line."""

import dataclasses

from instructblip_jax.__main__ import main
from instructblip_jax.convert import language_models
from instructblip_jax.convert.config_fields import fields
from instructblip_jax.convert.load import NONE
from instructblip_jax.convert.parts import eva_vit
from instructblip_jax.convert.rule import dense
from instructblip_jax.families import FAMILIES, Family
from instructblip_jax.files import read_json
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.pixels import numbers
from instructblip_jax.processors.image_text import ImageTextProcessor
from instructblip_jax.systems.prefix import PrefixConfig, PrefixSystem


@dataclasses.dataclass(frozen=True)
class Config(PrefixConfig):
    vision: VitConfig
    text: object
    stored_image_size: int = 0
    trainable_sets = {"bridge": ("bridge",)}  # noqa: RUF012

    def build(self, **options):
        return System(self, **options)


class System(PrefixSystem):
    def __init__(self, config, *, dtype, rngs, layout, remat, int8, trained):
        self.config, self.layout, self.vit = config, layout, Vit(config.vision, dtype=dtype, rngs=rngs)
        self.bridge = linear(config.vision.hidden_size, config.text.width, (None, "embed"), dtype=dtype, rngs=rngs)
        self.llm = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)

    def encode(self, batch):
        return {"image": self.vit(numbers(batch, "pixel_values"))}

    def visual_prompt(self, media, batch, *, key=None):
        return self.bridge(media["image"])


def read_config(path):
    raw, read = read_json(path), language_models.LANGUAGE_MODELS["t5"].read_config
    vision = VitConfig(**fields(path, "vision_config", VitConfig, raw["vision_config"]))
    return Config(vision, read(path, raw["text_config"]))


def rules(config):
    llm = language_models.of(config.text).rules("llm/", "llm.")
    vit = eva_vit.rules(config.vision, "vit/", "vision.")
    return {rule.ours: rule for rule in (*vit, *dense("bridge", "bridge"), *llm)}


make = ImageTextProcessor.from_directory
LINE = {"tenth": Family(Config.trainable_sets, read_config, rules, lambda _: NONE, lambda *_: None, make)}
if __name__ == "__main__":
    FAMILIES.update(LINE)
    raise SystemExit(main())

"""The language models that a layout may hold: one entry each."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from instructblip_jax.convert.parts import llama, opt, t5
from instructblip_jax.convert.rule import Rule
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config


class LanguageModel(NamedTuple):
    """``config_class``: of its dataclass; ``read_config``: config.json's path and its section -> that dataclass;
    ``rules``: the table of its tensors."""

    config_class: type
    read_config: Callable[[Path, Mapping[str, Any]], Any]
    rules: Callable[[], list[Rule]]


LANGUAGE_MODELS: dict[str, LanguageModel] = {
    "t5": LanguageModel(T5Config, t5.read_config, t5.rules),
    "llama": LanguageModel(LlamaConfig, llama.read_config, llama.rules),
    "opt": LanguageModel(OptConfig, opt.read_config, opt.rules),
}
"""model_type in a language model's section of config.json -> how it is read."""


def rules(config: Any) -> list[Rule]:
    """The table of the language model that has this configuration."""
    return next(one for one in LANGUAGE_MODELS.values() if isinstance(config, one.config_class)).rules()

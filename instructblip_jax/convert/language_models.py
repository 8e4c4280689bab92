"""The language models that a layout may contain, with one entry each."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from instructblip_jax.convert.parts import llama, opt, t5
from instructblip_jax.convert.rule import Rule
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config


class LanguageModel(NamedTuple):
    """One kind of language model in Hugging Face files.

    Attributes:
      config_class: dataclass of its sizes.
      read_config: (path of config.json, its section) -> that dataclass. Raises ValueError naming file and field.
      rules: (prefix of our paths, prefix of their names) -> the table of its tensors.
      ignored: prefix of their names -> pattern of the extra tensors in old files.
    """

    config_class: type
    read_config: Callable[[Path, Mapping[str, Any]], Any]
    rules: Callable[[str, str], list[Rule]]
    ignored: Callable[[str], str]


LANGUAGE_MODELS: dict[str, LanguageModel] = {
    "t5": LanguageModel(T5Config, t5.read_config, t5.rules, t5.ignored),
    "llama": LanguageModel(LlamaConfig, llama.read_config, llama.rules, llama.ignored),
    "opt": LanguageModel(OptConfig, opt.read_config, opt.rules, opt.ignored),
}
"""model_type in a language model's section of config.json -> its entry."""


def of(config: Any) -> LanguageModel:
    """The entry of the language model that has this configuration."""
    return next(one for one in LANGUAGE_MODELS.values() if isinstance(config, one.config_class))

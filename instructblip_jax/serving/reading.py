"""Prompts -> contexts on the device, with few programs: media are encoded one by one and cached, then the text is
read."""

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.serving.forms import Form, blank, counted, media_of
from instructblip_jax.serving.prompts import Prompt, Shown
from instructblip_jax.systems.build import merge
from instructblip_jax.systems.protocol import Context, Media

KEPT_BYTES = 256 * 2**20
"""Maximum size of the encoded media that are cached on the device."""


class Reader:
    """See the module. Not thread-safe."""

    def __init__(self, model: Model, processor: BaseProcessor):
        self.model, self.processor = model, processor
        self._kept: OrderedDict[bytes, Media] = OrderedDict()

    def context(self, prompt: Prompt) -> Context:
        """The context that all answers to a prompt share."""
        return self.model.prefill(self._media(prompt), self._texts(prompt))

    def shape(self, form: Form) -> Context:
        """Shapes of the context of a prompt of this form. Raises ValueError if it exceeds the model's positions."""

        def run(train: Any, frozen: Any, media: Media, batch: Any) -> Context:
            return merge(self.model.graph, train, frozen).prefill(media, batch)

        prompt = self.blank(form)
        with jax.set_mesh(self.model.mesh):
            return jax.eval_shape(run, self.model.train, self.model.frozen, self._media(prompt), self._texts(prompt))

    def fits(self, form: Form) -> bool:
        """True if the system's prompt form leaves room for an instruction.

        Raises ValueError if even the longest text of this server leaves none.
        """
        needed = self.processor.lengths(self.blank(form).row)[0]
        if needed > form.longest:
            raise ValueError(
                f"--max_prompt {form.longest}: the shortest prompt of this model has {needed} tokens of text"
            )
        return needed <= form.length

    def _texts(self, prompt: Prompt) -> dict[str, np.ndarray]:
        form = prompt.form
        return self.processor.batch([prompt.row], form.length, 0, form.kinds, training=False)

    def _media(self, prompt: Prompt) -> Media:
        return self._joined(prompt.form, [self.encoded(one) for one in prompt.media])

    def encoded(self, shown: Shown) -> Media:
        """One encoded medium, possibly from the cache."""
        if shown.digest in self._kept:
            self._kept.move_to_end(shown.digest)
            return self._kept[shown.digest]
        media = self.model.encode(self.processor.stack([shown.arrays]))
        self._kept[shown.digest] = media
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return media

    def blank(self, form: Form) -> Prompt:
        """A prompt of a form, for compilation."""
        modalities = [name for name, count in form.room for _ in range(count)]
        media = tuple(self.blanks[name] for name in modalities)
        if self.processor.converses:
            row = self.processor.converse([("a", None)], len(form.kinds))
        else:
            row = self.processor.encode("a", pictures=self.processor.shown(form.kinds))
        return Prompt(media, row, form, 0)

    @cached_property
    def blanks(self) -> dict[str, Shown]:
        """Modality -> a blank medium."""
        found = {}
        for name in self.processor.modalities:
            media = media_of(self.processor, name, blank(name), "blank")
            arrays = self.processor.media(media, "blank")
            found[name] = Shown(name, tuple(kind for kind, _ in media), arrays, f"blank {name}".encode())
        return found

    @cached_property
    def _nothing(self) -> dict[str, Media]:
        """Modality -> encoded arrays of zeros, which replace media that a row does not have."""
        return {name: jax.tree.map(jnp.zeros_like, self.encoded(one)) for name, one in self.blanks.items()}

    def _joined(self, form: Form, media: list[Media]) -> Media:
        """The media of a row, concatenated and padded with zeros."""
        if not self.processor.several:
            (only,) = media
            return only
        parts = list(media)
        shown = counted([name for one in media for name in one])
        for modality, count in form.room:
            nothing = self._nothing[modality]
            (name,) = nothing
            parts += [nothing] * (count - shown.get(name, 0))
        by_name: dict[str, list[jax.Array]] = {}
        for part in parts:
            for name, x in part.items():
                by_name.setdefault(name, []).append(x)
        with jax.set_mesh(self.model.mesh):
            return {name: self._concatenate(arrays) for name, arrays in by_name.items()}

    @cached_property
    def _concatenate(self) -> Callable:
        return jax.jit(lambda arrays: jnp.concatenate(arrays, axis=1))


def _bytes(media: Media) -> int:
    return int(sum(np.prod(x.shape) * x.dtype.itemsize for x in media.values()))

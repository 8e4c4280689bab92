"""The rows that are decoded together: their arrays on the device, and the programs that fill and advance them.

A row is a batch of one with its own context, cache and position in its answer; a step is one `jax.vmap` of the system's
`decode` over all rows. A row's answer therefore does not depend on the other rows, and a request can join or leave
between any two tokens. Contexts of shorter prompts are padded with zeros, which their masks hide.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructblip_jax.decoding import draws
from instructblip_jax.decoding.logits import adjust, warp
from instructblip_jax.decoding.options import Options
from instructblip_jax.model import Model
from instructblip_jax.systems.build import merge
from instructblip_jax.systems.protocol import Context

MOST_TOP = 20
"""Maximum number of likeliest tokens reported for each token: OpenAI's limit."""
Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Written:
    """The next token of every row: ids int32 [R], log-probabilities float32 [R], bool [R], true where the logits were
    finite; and the likeliest tokens, int32 and float32 [R, K], zeros if no row needs them."""

    ids: Any
    log_probabilities: Any
    finite: Any
    top_ids: Any
    top_log_probabilities: Any

    def fetched(self) -> "Written":
        """The same, as NumPy arrays; waits for the device."""
        return Written(**jax.device_get(dataclasses.asdict(self)))


class Slots:
    """See the module. Not thread-safe."""

    def __init__(self, model: Model, context: Context, rows: int, capacity: int, options: Options):
        """``context``: shapes of the largest context of one row; ``capacity``: tokens of the longest answer;
        ``options``: what `decoding.logits` needs, such as the forbidden tokens."""
        self.model, self.context, self.rows, self.capacity = model, context, rows, capacity
        self.options = dataclasses.replace(options, do_sample=True, top_k=0, nucleus=True)
        self.temperature, self.top_p = np.zeros(rows, np.float32), np.ones(rows, np.float32)
        self.wants_top = np.zeros(rows, bool)
        self.clear()

    def clear(self) -> None:
        """Reset all rows."""
        with jax.set_mesh(self.model.mesh):
            self.held, self.state = self._empty(self.model.train, self.model.frozen)
        self.temperature[:], self.top_p[:], self.wants_top[:] = 0, 1, False

    def widen(self, context: Context) -> Context:
        """The context of one row, padded to the size of the largest."""
        with jax.set_mesh(self.model.mesh):
            return self._widen(context)

    def fill(self, row: int, context: Context, *, seed: int, temperature: float, top_p: float, top: bool) -> None:
        """Begin an answer in a row; ``context`` is the result of `widen`. ``temperature`` 0 decodes greedily; ``top``:
        the likeliest tokens are reported for each token."""
        self.temperature[row], self.top_p[row], self.wants_top[row] = temperature, top_p, top
        with jax.set_mesh(self.model.mesh):
            self.held, self.state = self._fill(self.held, self.state, context, np.int32(row), np.uint32(seed))

    def free(self, row: int) -> None:
        """Free a row whose answer has ended: it no longer costs any sampling."""
        self.temperature[row], self.top_p[row], self.wants_top[row] = 0, 1, False

    def step(self) -> Written:
        """Dispatch the decoding of the next token of every row; `Written.fetched` waits for it."""
        chosen = {"temperature": self.temperature.copy(), "top_p": self.top_p.copy(), "top": self.wants_top.any()}
        with jax.set_mesh(self.model.mesh):
            self.state, out = self._step(self.model.train, self.model.frozen, self.held, self.state, chosen)
        return Written(**out)

    def _jit(self, run: Callable, **options: Any) -> Callable:
        return jax.jit(run, compiler_options=self.model.compiler_options, **options)

    @cached_property
    def _empty(self) -> Callable:
        def zeros(x: Any) -> jax.Array:
            return jnp.zeros((self.rows, *x.shape), x.dtype)

        def run(train: Arrays, frozen: Arrays) -> tuple[Context, Arrays]:
            system = merge(self.model.graph, train, frozen)
            one = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.context)
            state = {
                "cache": jax.tree.map(zeros, jax.eval_shape(lambda: system.init_cache(one, 1, self.capacity))),
                "ids": jnp.zeros(self.rows, jnp.int32),
                "index": jnp.zeros(self.rows, jnp.int32),
                "key": jax.vmap(jax.random.key)(jnp.zeros(self.rows, jnp.uint32)),
            }
            return jax.tree.map(zeros, self.context), state

        return self._jit(run)

    @cached_property
    def _widen(self) -> Callable:
        def put(large: jax.ShapeDtypeStruct, x: jax.Array) -> jax.Array:
            return jnp.pad(x, [(0, most - own) for most, own in zip(large.shape, x.shape, strict=True)])

        return self._jit(lambda context: jax.tree.map(put, self.context, context))

    @cached_property
    def _fill(self) -> Callable:
        def run(
            held: Context, state: Arrays, context: Context, row: jax.Array, seed: jax.Array
        ) -> tuple[Context, Arrays]:
            begun = {
                "cache": jax.tree.map(lambda x: x.at[row].set(0), state["cache"]),
                "ids": state["ids"].at[row].set(context["first"][0].astype(jnp.int32)),
                "index": state["index"].at[row].set(0),
                "key": state["key"].at[row].set(jax.random.key(seed)),
            }
            return jax.tree.map(lambda all_rows, x: all_rows.at[row].set(x), held, context), begun

        return self._jit(run, donate_argnums=(0, 1))

    @cached_property
    def _step(self) -> Callable:
        top = min(MOST_TOP, self.model.config.vocab_size)

        def run(train: Arrays, frozen: Arrays, held: Context, state: Arrays, chosen: Arrays) -> tuple[Arrays, Arrays]:
            system = merge(self.model.graph, train, frozen)

            def one(token: jax.Array, context: Context, cache: Any, index: jax.Array) -> tuple[jax.Array, Any]:
                logits, cache = system.decode(token[None, None, None], context, cache, index)
                return logits[0, 0], cache

            index = jnp.minimum(state["index"], self.capacity - 1)  # free rows are decoded too, and ignored
            logits, cache = jax.vmap(one)(state["ids"], held, state["cache"], index)  # [R, 1, V]
            none = jnp.zeros((self.rows, 0), jnp.int32)
            scores = adjust(logits, self.options, none, none[:, None], jnp.int32(1))
            temperature, top_p = (chosen[name][:, None, None] for name in ("temperature", "top_p"))
            heat: Any = jnp.where(temperature > 0, temperature, 1)
            warped = dataclasses.replace(self.options, temperature=heat)
            likeliest = jnp.argmax(scores, axis=-1)

            def sampled() -> tuple[jax.Array, jax.Array]:
                later, own = draws.split(state["key"])
                narrow = dataclasses.replace(warped, top_p=top_p)
                wide = dataclasses.replace(warped, nucleus=False)
                among = jax.lax.cond(jnp.any(top_p < 1), lambda: warp(scores, narrow), lambda: warp(scores, wide))
                return jnp.where(temperature[..., 0] > 0, draws.categorical(own, among), likeliest), later

            # A sampling row samples at every step of its answer, so its key advances like that of `generate`.
            ids, key = jax.lax.cond(jnp.any(temperature > 0), sampled, lambda: (likeliest, state["key"]))
            ids = ids[:, 0].astype(jnp.int32)
            probabilities = jax.nn.log_softmax(logits[:, 0], axis=-1)
            tops = jax.lax.cond(
                chosen["top"],
                lambda: jax.lax.top_k(probabilities, top),
                lambda: [jnp.zeros((self.rows, top), x) for x in (probabilities.dtype, jnp.int32)],
            )
            out = {
                "ids": ids,
                "log_probabilities": jnp.take_along_axis(probabilities, ids[:, None], axis=-1)[:, 0],
                "finite": jnp.all(jnp.isfinite(logits), axis=(1, 2)),
                "top_ids": tops[1],
                "top_log_probabilities": tops[0],
            }
            return {"cache": cache, "ids": ids, "index": index + 1, "key": key}, out

        return self._jit(run, donate_argnums=3)

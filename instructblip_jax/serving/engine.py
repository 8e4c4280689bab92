"""The thread that owns the device: it admits requests to free rows, and decodes all busy rows together.

Anything else that needs the device, such as ranking or embedding, runs on this thread between two tokens (`call`).
The next step is dispatched before the last one is read, so that the device does not wait for the host.
"""

import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from instructblip_jax.decoding.text import options_for
from instructblip_jax.looking import views
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.serving.answers import Answer
from instructblip_jax.serving.comparer import Comparer, compares
from instructblip_jax.serving.errors import Refusal
from instructblip_jax.serving.forms import blank, forms
from instructblip_jax.serving.limits import Limits
from instructblip_jax.serving.metrics import Metrics
from instructblip_jax.serving.prompts import Prompt
from instructblip_jax.serving.reading import Reader
from instructblip_jax.serving.slots import Slots, Written
from instructblip_jax.systems.protocol import Looks

CANDIDATES, CANDIDATE_TOKENS = 16, 32
"""Maximum number of candidates per request, and of tokens per candidate, including the end token."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The options of an answer. ``temperature`` 0 decodes greedily. ``seed`` is for the first of ``count`` answers;
    each further answer has the next seed. ``top``: number of likeliest tokens to report for each token."""

    most: int
    count: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()
    top: int = 0


@dataclasses.dataclass(frozen=True)
class Token:
    """A new token of an answer: the text that is now certain, the id (None once the text has ended), its
    log-probability, the likeliest (id, log-probability) pairs, and the finish reason, if it is the last."""

    choice: int
    piece: str
    id: int | None
    log_probability: float
    top: tuple[tuple[int, float], ...]
    finish: str | None


Deliver = Callable[["Ticket", Token | BaseException], None]


class Ticket:
    """An accepted request. ``deliver`` is called on the engine's thread with each token or an error."""

    def __init__(self, prompt: Prompt, wanted: Wanted, deliver: Deliver):
        self.prompt, self.wanted, self.deliver = prompt, wanted, deliver
        self.begun = time.monotonic()
        self.cancelled = False
        """True once no client waits for its tokens."""
        self.answers: list[Answer] = []
        self.told_first = False

    @property
    def done(self) -> bool:
        """True once there is nothing left to generate."""
        return self.cancelled or (bool(self.answers) and all(answer.finish for answer in self.answers))


class Engine:
    """See the module. Call `warm_up`, then `start`; after that any thread may call `submit`, `cancel` and `call`."""

    def __init__(
        self,
        model: Model,
        processor: BaseProcessor,
        metrics: Metrics,
        limits: Limits,
    ):
        self.model, self.processor, self.metrics = model, processor, metrics
        self.limits, self.rows, self.waiting = limits, limits.rows, limits.queue
        self.reader = Reader(model, processor)
        self.forms = forms(
            processor, limits.max_prompt, {name: limits.most(processor, name) for name in processor.modalities}
        )
        self.comparer = (
            Comparer(model, processor, self.reader, limits.max_prompt) if compares(model, processor) else None
        )
        self.text_length = self.comparer.length if self.comparer else limits.max_prompt
        self.looks = isinstance(model.config, Looks) and "image" in processor.modalities
        self.options = options_for(model, max_new_tokens=limits.max_tokens)
        self.ends = frozenset(self.options.ends) | processor.stop_ids
        self._slots: Slots | None = None
        self._busy: list[tuple[Ticket, int] | None] = [None] * self.rows
        self._queue: deque[Ticket] = deque()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.show("queue_length", lambda: len(self._queue))
        metrics.show("rows_busy", lambda: self.busy)
        metrics.show("rows", lambda: self.rows)

    @property
    def busy(self) -> int:
        """Number of rows in use."""
        return sum(row is not None for row in self._busy)

    @property
    def idle(self) -> bool:
        """True if nothing is left to do."""
        return not self.busy and not self._queue and self._calls.empty()

    @property
    def slots(self) -> Slots:
        """The rows on the device. Available after `prepare`, for a model that generates text."""
        assert self._slots is not None
        return self._slots

    # Compiling

    def prepare(self) -> None:
        """Encode blank media, and allocate the rows. Raises ValueError if prompt and answer exceed the model's
        positions, or if the longest prompt is too short for the model's prompt form."""
        if self.comparer or self.looks:
            self.reader.encoded(self.reader.blanks["image"])
        if not self.model.has("prefill"):
            return
        self.forms = [form for form in self.forms if self.reader.fits(form)]
        shapes = [self.reader.shape(form) for form in self.forms]
        largest = jax.tree.map(_largest, *shapes)
        self._slots = Slots(self.model, largest, self.rows, self.options.capacity, self.options)

    def warm_up(self) -> Iterator[str]:
        """Compile all programs, after `prepare`; yields a description of each before it is compiled."""
        if self.comparer:
            yield from self.comparer.warm_up()
        if self.looks:
            yield "maps"
            self.look(blank("image"), "a")
        if not self.model.has("prefill"):
            return
        contexts = []
        for form in self.forms:
            room = ", ".join(f"{count} {name}" for name, count in form.room)
            yield f"{room}, {form.length} tokens"
            contexts.append(self.reader.context(self.reader.blank(form)))
        yield f"{self.rows} rows of {self.options.capacity} tokens"
        for context in contexts:
            wide = self.slots.widen(context)
        self.slots.fill(0, wide, seed=0, temperature=0.0, top_p=1.0, top=False)
        self.slots.step().fetched()
        yield "candidates"
        self.rank(wide, [self.processor.response("a")])
        self.slots.free(0)

    # For other threads

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def submit(self, prompt: Prompt, wanted: Wanted, deliver: Deliver) -> Ticket:
        """Queue a request. Raises `Refusal` with status 429 if the queue is full, 503 if the server is stopping."""
        ticket = Ticket(prompt, wanted, deliver)
        with self._changed:
            if self._stopping:
                raise Refusal(503, "the server is stopping")
            if len(self._queue) >= self.waiting:
                raise Refusal(429, f"{self.waiting} requests are waiting already; try again", code="queue_full")
            self._queue.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a request whose client has gone: its rows are freed before the next token."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._queue:
                self._queue.remove(ticket)
            self._changed.notify()

    def call(self, function: Callable[[], Any]) -> Future:
        """Run a function on the engine's thread between two tokens. Raises `Refusal` like `submit`."""
        done: Future = Future()
        with self._changed:
            if self._stopping:
                raise Refusal(503, "the server is stopping")
            if self._calls.qsize() >= self.waiting:
                raise Refusal(429, f"{self.waiting} requests are waiting already; try again", code="queue_full")
            self._calls.put((function, done))
            self._changed.notify()
        return done

    def stop(self, seconds: float) -> bool:
        """Refuse new requests, finish the current ones, and end the thread; False if the time ran out."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    # On the engine's thread

    def rank(self, context: Any, candidates: Sequence[np.ndarray]) -> np.ndarray:
        """Tokens of candidates, including the end token, after a padded context -> log-likelihoods float32 [N]."""
        ids = np.zeros((1, CANDIDATES, CANDIDATE_TOKENS), np.int32)
        counted = np.zeros(ids.shape, bool)
        for n, tokens in enumerate(candidates):
            ids[0, n, : len(tokens)], counted[0, n, : len(tokens)] = tokens, True
        return self.model.log_likelihood(context, ids, counted)[0, : len(candidates)]

    def look(self, picture: Any, instruction: str) -> dict[str, np.ndarray]:
        """See `looking.views`."""
        return views(self.model, self.processor, picture, instruction, length=self.text_length)

    def _run(self) -> None:
        pending: tuple[Written, list[tuple[Ticket, int] | None]] | None = None
        while True:
            with self._changed:
                while not (self._stopping or self.busy or self._queue or not self._calls.empty() or pending):
                    self._changed.wait()
                if self._stopping and self.idle and not pending:
                    return
            self._free_cancelled()
            self._call_one()
            self._admit()
            try:
                begun = (self.slots.step(), list(self._busy)) if self.busy else None
                if pending:
                    self._deliver(*pending)
            except Exception as error:  # out of memory, for example: these requests fail, and the server continues
                self._fail_all(error)
                begun = None
            pending = begun

    def _free_cancelled(self) -> None:
        for row, held in enumerate(self._busy):
            if held and held[0].cancelled:
                self._free(row)

    def _free(self, row: int) -> None:
        self._busy[row] = None
        self.slots.free(row)

    def _call_one(self) -> None:
        """Run one call; the others wait until after the next token, so that answers continue."""
        try:
            function, done = self._calls.get_nowait()
        except queue.Empty:
            return
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    def _admit(self) -> None:
        """Assign free rows to the waiting requests, in order of arrival."""
        while True:
            with self._changed:
                free = [row for row, held in enumerate(self._busy) if held is None]
                if not self._queue or len(free) < self._queue[0].wanted.count:
                    return
                ticket = self._queue.popleft()
            wanted = ticket.wanted
            try:
                context = self.slots.widen(self.reader.context(ticket.prompt))
                for choice, row in zip(range(wanted.count), free, strict=False):
                    self.slots.fill(
                        row,
                        context,
                        seed=(wanted.seed + choice) % 2**32,
                        temperature=wanted.temperature,
                        top_p=wanted.top_p,
                        top=wanted.top > 0,
                    )
                    ticket.answers.append(Answer(self.processor, self.ends, wanted.most, wanted.stops))
                    self._busy[row] = (ticket, choice)
            except Exception as error:
                ticket.cancelled = True
                ticket.deliver(ticket, error)

    def _deliver(self, written: Written, rows: list[tuple[Ticket, int] | None]) -> None:
        """Deliver each row's token to its request; ``rows`` is their state when the step was dispatched."""
        out = written.fetched()
        for row, held in enumerate(rows):
            if held is None or held[0].cancelled or held[0].answers[held[1]].finish:
                continue
            ticket, choice = held
            if not out.finite[row]:
                error = ValueError(
                    "the model's logits are not numbers: its weights hold NaN or infinity, or need float32"
                )
                ticket.cancelled = True
                ticket.deliver(ticket, error)
                continue
            if not ticket.told_first:
                ticket.told_first = True
                self.metrics.first_token.observe(time.monotonic() - ticket.begun)
            answer, token = ticket.answers[choice], int(out.ids[row])
            piece = answer.add(token)
            self.metrics.add("tokens")
            if answer.finish and self._busy[row] == held:
                self._free(row)
            top = tuple(
                (int(i), float(x))
                for i, x in zip(
                    out.top_ids[row, : ticket.wanted.top],
                    out.top_log_probabilities[row, : ticket.wanted.top],
                    strict=True,
                )
            )
            shown = None if token in self.ends else token
            ticket.deliver(ticket, Token(choice, piece, shown, float(out.log_probabilities[row]), top, answer.finish))
            if ticket.done:
                self.metrics.whole.observe(time.monotonic() - ticket.begun)

    def _fail_all(self, error: Exception) -> None:
        for ticket in {held[0] for held in self._busy if held}:
            ticket.cancelled = True
            ticket.deliver(ticket, error)
        self._busy = [None] * self.rows
        self.slots.clear()


def _largest(*shapes: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape that all of these fit into."""
    sizes = zip(*(one.shape for one in shapes), strict=True)
    return jax.ShapeDtypeStruct(tuple(map(max, sizes)), shapes[0].dtype)

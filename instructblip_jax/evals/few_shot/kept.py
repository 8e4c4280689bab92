"""Few-shot predictions, saved while they are made, so that an interrupted evaluation continues."""

from collections.abc import Callable, Mapping

from tqdm import tqdm

from instructblip_jax import distributed
from instructblip_jax.evals.few_shot.answers import Asking, Task
from instructblip_jax.evals.store import PredictionStore


def keep(
    asking: Callable[[], Asking], task: Task, stores: Mapping[int, PredictionStore], every: int
) -> dict[int, list[str]]:
    """Number of examples -> all lines of its store. Missing ones are computed now and saved every ``every`` batches.

    ``asking`` encodes the examples' images; it is called only if anything is missing. All hosts of a job call this
    function together.
    """
    missing = {shots: store for shots, store in stores.items() if not store.whole}
    if missing:
        done = {shots: store.count // task.seeds(shots) for shots, store in missing.items()}
        parts: dict[int, list[str]] = {shots: [] for shots in missing}
        begun = min(done.values())
        with tqdm(
            total=len(task.opened.asked),
            initial=begun,
            desc=task.opened.name,
            unit="question",
            leave=False,
            disable=None if distributed.is_writer() else True,
        ) as bar:
            for number, batch in enumerate(asking().lines(done), 1):
                for shots, lines in batch.items():
                    parts[shots] += lines
                    if number % every == 0:
                        missing[shots].add(parts[shots])
                        parts[shots] = []
                bar.update(min(task.suite.batch_size, bar.total - bar.n))
        for shots, store in missing.items():
            store.finish(parts[shots])
    return {shots: store.lines for shots, store in stores.items()}

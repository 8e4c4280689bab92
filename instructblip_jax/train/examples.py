"""Which records each step was trained on, written down as they are drawn: to see that none is lost or repeated."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from instructblip_jax.train.loop import Data


class LoggedExamples:
    """Batches of ``data``, and a JSON line for each in ``directory``: its step, this host's rows of it, their uids.

    A file a process and start, from-STEP-process-N.jsonl. A step that was trained again after a crash stands in two
    files: what counts is the later start.
    """

    def __init__(self, data: Data, directory: epath.Path, *, step: int, process: int, rows: np.ndarray):
        directory.mkdir(parents=True, exist_ok=True)
        self.data, self.step, self.rows = data, step, rows.tolist()
        self.file = (directory / f"from-{step:08d}-process-{process}.jsonl").open("w")

    def __next__(self) -> Mapping[str, Any]:
        batch: Mapping[str, Any] = next(self.data)
        self.step += 1
        self.file.write(json.dumps({"step": self.step, "rows": self.rows, "uid": batch["uid"]}) + "\n")
        self.file.flush()
        return batch

    def get_state(self) -> Any:
        """The position of ``data``."""
        return self.data.get_state()

"""Log of the training records of each step, to check that none is lost or repeated."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from instructblip_jax.train.loop import Data


class LoggedExamples:
    """Batches of ``data``, with a JSON line for each in ``directory``: step, this host's rows, and their uids.

    One file per start and process, from-STEP-process-N.jsonl. A step that was trained again after a crash is in two
    files; the one of the later start is valid.
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
        """Position of ``data``."""
        return self.data.get_state()

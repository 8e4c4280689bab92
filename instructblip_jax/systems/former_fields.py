"""Options of systems that were once fields of every run. They are read for one release, and then this file goes."""

from collections.abc import Mapping
from typing import Any

FORMER_FIELDS: Mapping[str, Any] = {"instruct_qformer": True}
"""Former field of a run, now of the same name in ``config.system`` -> its default."""

"""Options of systems that used to be fields of every run. They are read for one release; this file is then removed."""

from collections.abc import Mapping
from typing import Any

FORMER_FIELDS: Mapping[str, Any] = {"instruct_qformer": True}
"""Former field of a run, now with the same name in ``config.system`` -> its default."""

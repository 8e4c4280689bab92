"""Exchange of the two images of a record in training (NLVR2; arXiv 2201.12086)."""

import dataclasses
import re

from instructblip_jax.data.record import Record

_SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def exchanged(record: Record) -> Record:
    """The record with its media in the opposite order, and with "left" and "right" exchanged in its texts."""
    slots = {name: sides_exchanged(text) for name, text in record.slots.items()}
    own = None if record.instruction is None else sides_exchanged(record.instruction)
    return dataclasses.replace(record, media=record.media[::-1], slots=slots, instruction=own)


def sides_exchanged(text: str) -> str:
    """``text`` with "left" and "right" exchanged at the beginnings of words ("leftmost"); the original code also
    changes them within words ("bright")."""
    return _SIDE.sub(lambda found: _as(found[0], _OTHER[found[0].lower()]), text)


def _as(old: str, new: str) -> str:
    """``new`` with the case of ``old``."""
    return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new

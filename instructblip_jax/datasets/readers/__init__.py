"""Readers of the public data sets: official files -> drafts. `releases.RELEASES` names them all."""

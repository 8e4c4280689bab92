"""Readers of the public datasets: official files -> drafts. `releases.RELEASES` lists them all."""

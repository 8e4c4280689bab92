"""The papers' runs, as configurations."""

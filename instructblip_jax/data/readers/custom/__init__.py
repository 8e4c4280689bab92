"""The user's own files, whatever form they have: every format becomes rows with one set of columns (`row.py`)."""

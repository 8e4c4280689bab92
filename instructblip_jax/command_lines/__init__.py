"""One file a command: its ``--help``, which is the docstring, ``define_flags`` and ``check_flags``; no jax here."""

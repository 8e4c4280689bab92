"""One file per command: its ``--help``, which is the docstring, ``define_flags`` and ``check_flags``. No jax here."""

"""One file a command: ``define_flags()``, and ``run(args)`` with what stood behind the flags."""

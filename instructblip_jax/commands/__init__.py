"""One file per command: ``run(args)`` is called after `command_lines` has checked the flags. Imports may take
seconds."""

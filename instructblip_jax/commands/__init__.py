"""One file a command: ``run(args)``, called once `command_lines` found nothing wrong; it may take seconds to import."""

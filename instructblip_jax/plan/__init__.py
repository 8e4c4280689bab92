"""Memory and speed of a run: predicted before it is paid for, and measured against the prediction while it runs."""

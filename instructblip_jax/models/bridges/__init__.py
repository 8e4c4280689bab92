"""What stands between a tower and a language model."""

"""One table a part: its tensors' names there, its parameters' paths here."""

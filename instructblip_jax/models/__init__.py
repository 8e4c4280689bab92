"""Parts: arrays in, arrays out. They know nothing of files, text or training."""

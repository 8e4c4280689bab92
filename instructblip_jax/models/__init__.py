"""Model parts: arrays in, arrays out. They know nothing about files, text or training."""

"""Model parts: arrays in, arrays out. They are independent of files, text and training."""

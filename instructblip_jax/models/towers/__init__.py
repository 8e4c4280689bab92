"""Media encoders: arrays in, tokens out."""

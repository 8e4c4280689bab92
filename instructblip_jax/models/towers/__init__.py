"""Encoders of media: arrays in, tokens out."""

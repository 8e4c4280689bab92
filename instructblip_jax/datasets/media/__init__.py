"""Media from any source -> encoded media that have been checked by decoding, or the reason why they are unusable."""

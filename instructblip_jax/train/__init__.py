"""The train step of any system, and the training loop."""

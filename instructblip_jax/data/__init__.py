"""Records to batches. No model code, no TensorFlow."""

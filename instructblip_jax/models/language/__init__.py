"""Language models: embeddings and a mask in, logits out."""

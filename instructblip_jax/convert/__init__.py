"""Foreign names in and out: Hugging Face checkpoints <-> our parameter trees, by one table for both directions."""

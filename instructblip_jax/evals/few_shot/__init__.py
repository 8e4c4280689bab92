"""Few-shot evaluation: the choice of examples, the prompts that show them, and the table over numbers of examples."""

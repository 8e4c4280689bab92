"""Evaluation with worked examples in the prompt: their choice, the prompts, and the table over numbers of examples."""

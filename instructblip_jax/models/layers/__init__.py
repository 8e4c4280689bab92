"""What every part is made of."""

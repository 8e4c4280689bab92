"""The embedded world: scenes of real handwritten digits, and the tasks that are asked about them."""

"""The built-in toy world: scenes of real handwritten digits, and question-answering tasks about them."""

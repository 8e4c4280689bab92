"""Text generation and ranking with any system."""

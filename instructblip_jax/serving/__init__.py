"""A model behind HTTP: OpenAI's API, a page for people, and the rows that are decoded together."""

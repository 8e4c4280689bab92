"""Serving a model over HTTP: an OpenAI-compatible API, a web page, and continuous batching."""

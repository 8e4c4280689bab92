"""Systems: how parts are combined into a model, with its loss and its trainable sets."""

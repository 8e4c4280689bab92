"""One module per family: parts of other models -> a `convert.assemble.Draft` of a new model directory."""

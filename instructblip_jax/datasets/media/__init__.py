"""Pictures and videos of any origin -> encoded pictures that are known to be readable, or a short reason why not."""

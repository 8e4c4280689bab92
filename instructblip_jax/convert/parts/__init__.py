"""One table per part: our path of each parameter, and the name of its tensor in the files.

A table takes the prefixes of both as arguments, such as ``ours="llm/", theirs="language_model."``, so that several
layouts can contain the same part under different names.
"""

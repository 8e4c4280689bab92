"""One table a part: the path of each parameter here, the name of its tensor there.

A table takes the prefixes of both as arguments, such as ``ours="llm/", theirs="language_model."``, so that several
layouts can hold the same part under different names.
"""

"""The equations of a traced program."""

from collections.abc import Iterator


def equations(jaxpr) -> Iterator:
    """All of them, those inside loops, calls and custom derivatives too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(inner, "eqns"):
                    yield from equations(inner)
                elif hasattr(inner, "jaxpr"):
                    yield from equations(inner.jaxpr)

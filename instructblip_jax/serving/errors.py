"""Errors in OpenAI's format."""

from typing import Any

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""Status -> error type, if it is not the general one of invalid requests (4xx) or of server errors (5xx)."""


class Refusal(Exception):
    """An error response: its HTTP status, a one-line message, and the request's field that is wrong."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def wrong(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """The refusal of an invalid request: status 400."""
    return Refusal(400, message, param, code)

"""Failures as HTTP answers in OpenAI's shape: {"error": {message, type, param, code}}."""

from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pagemill.errors import Busy, PagemillError, Unavailable

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class HttpRefusal(PagemillError):
    """A request refused before any endpoint looked at it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def error_body(error: PagemillError) -> bytes:
    """The JSON of an error, for a body or a `data:` line."""
    status = error.status
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    fields = {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code,
    }
    return msgspec.json.encode({"error": fields})


def error_response(error: PagemillError, *, close: bool = False) -> Response:
    """The whole answer; `close` ends the connection (its request body may be unread)."""
    headers: dict[str, str] = {}
    if isinstance(error, (Busy, Unavailable)):
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if close:
        headers["connection"] = "close"
    return Response(error_body(error), error.status, headers, "application/json")


def from_starlette(error: HTTPException) -> PagemillError:
    """The router's own refusals: no such path, wrong method."""
    if error.status_code == 404:
        return HttpRefusal(404, "not_found", "There is nothing at this path; see /docs.")
    if error.status_code == 405:
        return HttpRefusal(405, "method_not_allowed", "This path does not take this method.")
    return HttpRefusal(error.status_code, "http_error", str(error.detail))

"""JSON bodies on their way in and out, whatever the dialect."""

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pagemill.server.errors import HttpRefusal
from pagemill.server.fields import Fields, parse_object

BODY_TIMEOUT_S = 60.0
INLINE_BYTES = 256 * 1024  # parsing more would hold up the streams


async def read_fields(request: Request) -> Fields:
    """The JSON object in a request's body, read in bounded time."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise HttpRefusal(
            415, "unsupported_media_type", "The body must be Content-Type: application/json."
        )
    try:
        body = await asyncio.wait_for(request.body(), BODY_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise HttpRefusal(
            408, "body_timeout", f"The body did not arrive within {BODY_TIMEOUT_S:g} seconds."
        ) from None
    if len(body) > INLINE_BYTES:
        return await asyncio.to_thread(parse_object, body)
    return parse_object(body)


def json_response(value: object) -> Response:
    """A JSON body with status 200."""
    return Response(msgspec.json.encode(value), media_type="application/json")

"""HTTP by hand, for what no client library would send."""

import asyncio


async def exchange(port: int, head: str | bytes, body: bytes = b"", *, close: bool = True) -> bytes:
    """Send a request head (without its empty line) and body; return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = head if isinstance(head, bytes) else head.encode("latin-1")
    if close:
        raw += b"Connection: close\r\n"
    try:
        writer.write(raw + b"\r\n" + body)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    """The status of an HTTP/1.1 answer; 0 when the connection was just closed."""
    return int(answer.split(b" ", 2)[1]) if answer else 0

"""Load generator for OpenAI-compatible servers on this machine: many users, each token timed.

    python benchmarks/load.py --url http://127.0.0.1:8000 --model smollm2 --users 1,8,32,50

Every user sends one streamed completion request; all start together. Prompts are different random
common words, so no prefix cache helps by accident (`--shared` words are put before all of them on
purpose). Prints throughput, time to first token and gaps between tokens. Standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_TEXT = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book"
)
WORDS = _TEXT.split()


@dataclass
class Answer:
    """One streamed answer: when it was asked for and when each chunk arrived, in seconds."""

    asked: float
    arrivals: list[float] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    error: str | None = None


async def ask(url: str, body: dict[str, object], key: str) -> Answer:
    """Send one request over a connection of its own and read its event stream."""
    parts = urlsplit(url)
    payload = json.dumps(body).encode()
    head = (
        f"POST {parts.path.rstrip('/')}/v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    answer = Answer(time.perf_counter())
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        writer.write(head.encode() + payload)
        status = await reader.readline()
        if b" 200 " not in status:
            answer.error = (status + await reader.read()).decode(errors="replace")[:300]
            return answer
        async for line in reader:
            take(answer, line)
    finally:
        writer.close()
    return answer


def take(answer: Answer, line: bytes) -> None:
    """Note one line of the stream: a chunk with text, the usage, or an error."""
    if not line.startswith(b"data: {"):
        return
    event = json.loads(line[6:])
    if "error" in event:
        answer.error = str(event["error"])
    if event.get("usage"):
        answer.usage = event["usage"]
    if event.get("choices") and event["choices"][0].get("text"):
        answer.arrivals.append(time.perf_counter())


def prompt(seed: str, words: int, shared: int) -> str:
    """`words` random words, of which the first `shared` are the same for everybody."""
    common = random.Random("shared").choices(WORDS, k=shared)  # noqa: S311 - no secret
    own = random.Random(seed).choices(WORDS, k=words - shared)  # noqa: S311
    return " ".join(common + own)


async def level(options: argparse.Namespace, users: int, repeat: int) -> str:
    """All users at once; returns the line to print."""

    def body(user: int) -> dict[str, object]:
        seed = f"{time.time()}/{repeat}/{user}"
        return {
            "model": options.model,
            "prompt": prompt(seed, options.prompt_tokens, options.shared),
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    started = time.perf_counter()
    answers = await asyncio.gather(
        *(ask(options.url, body(user), options.api_key) for user in range(users))
    )
    wall = time.perf_counter() - started
    good = [a for a in answers if a.error is None and a.arrivals]
    failed = [a.error for a in answers if a.error is not None]
    tokens = sum(a.usage.get("completion_tokens", len(a.arrivals)) for a in good)
    first = [1e3 * (a.arrivals[0] - a.asked) for a in good] or [0.0]
    gaps = [
        1e3 * (b - a) for x in good for a, b in zip(x.arrivals, x.arrivals[1:], strict=False)
    ] or [0.0]
    return (
        f"{users:3d} users  {len(good)}/{users} ok  {tokens / wall:7.1f} tok/s  "
        f"first token ms mean {statistics.fmean(first):.0f} p99 {percentile(first, 99):.0f}  "
        f"gap ms p50 {percentile(gaps, 50):.1f} p99 {percentile(gaps, 99):.1f}  "
        f"{wall:.2f} s  {failed[:1] or ''}"
    )


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--users", default="1,8,32,50")
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--shared", type=int, default=0, help="words of the prompt that all share")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    if urlsplit(options.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        parser.error("this generates load: only addresses of this machine are accepted")
    for repeat in range(options.repeats):
        for users in options.users.split(","):
            print(asyncio.run(level(options, int(users), repeat)), flush=True)


if __name__ == "__main__":
    main()

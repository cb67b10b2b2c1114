"""Does a model take the memory that `pagemill plan` says?

    python benchmarks/memory.py smollm2=2048x4 ./model.gguf=512x2 all-minilm=256x1

Each argument is MODEL=CONTEXTxUSERS. For each a server is started as planned, its cache is filled
by so many users at once with texts of the whole context, and the memory of all its processes is
read from the kernel (what they share counted once). Prints a table in Markdown.
"""

import argparse
import concurrent.futures
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pagemill.cli.plan import Planned, look_up
from pagemill.config import Settings
from pagemill.engine.plan import POOLED_BATCHED_TOKENS
from pagemill.types import EnginePlan, Machine

ANSWER_TOKENS = 8
READY_S, REQUEST_S = 180, 900
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pairs", nargs="+", metavar="MODEL=CONTEXTxUSERS")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print("| model | context | users | planned, MiB | measured, MiB | error |")
    print("|---|---|---|---|---|---|", flush=True)
    for pair in options.pairs:
        name, _, size = pair.rpartition("=")
        context, _, users = size.partition("x")
        settings = Settings.load({"threads": str(options.threads)}, dict(os.environ), {})
        planned = look_up(name, settings, int(context), int(users))
        plan = planned.plan(Machine(options.threads, 0, 1 << 60))
        measured = measure(planned, plan)
        error = plan.total_bytes / measured - 1
        print(
            f"| {Path(name).name} | {context} | {users} | {plan.total_bytes / MIB:,.0f} "
            f"| {measured / MIB:,.0f} | {error:+.1%} |",
            flush=True,
        )


def measure(planned: Planned, plan: EnginePlan) -> int:
    """Bytes of server and engine when everything planned has been used."""
    with server(planned, plan) as (process, url), httpx.Client(base_url=url) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        with concurrent.futures.ThreadPoolExecutor(planned.users) as pool:
            asks = [pool.submit(ask, client, model, planned, user) for user in range(planned.users)]
            for done in asks:
                done.result()
        return sum(proportional_bytes(pid) for pid in (process.pid, *children(process.pid)))


def ask(client: httpx.Client, model: str, planned: Planned, user: int) -> None:
    """One text of the whole context, of ids that no other user has."""
    ids = random.Random(user)  # noqa: S311
    vocab = planned.card.vocab_size
    body: dict[str, Any] = {"model": model}
    if planned.card.pooling:
        path, length = "/v1/embeddings", planned.context
        count = -(-POOLED_BATCHED_TOKENS // length)  # texts that fill a step
        body["input"] = [[ids.randrange(1000, vocab) for _ in range(length)] for _ in range(count)]
    else:
        path, length = "/v1/completions", planned.context - ANSWER_TOKENS
        body |= {"prompt": [ids.randrange(1000, vocab) for _ in range(length)]}
        body |= {"max_tokens": ANSWER_TOKENS, "ignore_eos": True}
    client.post(path, json=body, timeout=REQUEST_S).raise_for_status()


@contextmanager
def server(planned: Planned, plan: EnginePlan) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`pagemill serve` as planned, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pagemill", "serve", planned.name, "--port", str(port)]
    command += ["--max-model-len", str(plan.max_model_len), "--threads", str(plan.threads)]
    command += ["--max-num-seqs", str(plan.max_num_seqs)]
    if plan.kv_bytes:
        command += ["--kv-cache-memory", str(plan.kv_bytes)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/ready")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"the server is not ready after {READY_S} s, or has ended")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def proportional_bytes(pid: int) -> int:
    """Resident memory of a process, with its share of what others map too."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel does not say how much memory a process has")


if __name__ == "__main__":
    main()

"""Several servers on this machine, one after another, under the same load, round by round.

    python benchmarks/compare.py --users 1,50 --rounds 3 \\
        "pagemill=pagemill serve smollm2 --port {port}" \\
        "llama.cpp=llama-server -m smollm2.Q4_0.gguf -t 2 -c 76800 -np 50 --port {port}"

Starts each server, waits for its first token (the cold start), runs `load.py` on it, notes its
memory, and stops it by its process id. Rounds are interleaved, so a slow minute of a shared machine
meets everybody. `name:model=` names the model in requests where it is not "smollm2".
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

FIRST_PORT = 8700
START_LIMIT_S = 300.0


def first_token(port: int, model: str, server: subprocess.Popen[bytes]) -> float:
    """Seconds until the server has answered one token, from now."""
    started = time.perf_counter()
    body = json.dumps({"model": model, "prompt": "The", "max_tokens": 1})
    while time.perf_counter() - started < START_LIMIT_S:
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", body, headers)
            if connection.getresponse().status == 200:
                return time.perf_counter() - started
        except OSError:
            pass
        time.sleep(0.02)
    sys.exit(f"no token within {START_LIMIT_S:g} s")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in below for p in tree(int(child)))]


def memory_mib(pid: int) -> int:
    """Resident memory of a process tree; pages that processes share count once for each."""
    total = 0
    for process in tree(pid):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total >> 20


def measure(name: str, model: str, command: str, port: int, options: argparse.Namespace) -> None:
    """One server, all levels of load, one round."""
    argv = shlex.split(command.format(port=port))
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        cold = first_token(port, model, server)
        load = [sys.executable, str(Path(__file__).with_name("load.py"))]
        load += ["--url", f"http://127.0.0.1:{port}", "--model", model, *options.load]
        for users in options.users.split(","):
            line = subprocess.run(  # noqa: S603
                [*load, "--users", users], capture_output=True, text=True, check=True
            ).stdout.strip()
            print(f"{name:12s} {line}  {memory_mib(server.pid)} MiB", flush=True)
        print(f"{name:12s} first token {cold:.2f} s after its start", flush=True)
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("servers", nargs="+", metavar="NAME[:MODEL]=COMMAND")
    parser.add_argument("--users", default="1,8,32,50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=shlex.split, default=[], help="more options of load.py")
    options = parser.parse_args()
    for round_number in range(options.rounds):
        print(f"round {round_number + 1} of {options.rounds}", flush=True)
        for index, server in enumerate(options.servers):
            name, _, command = server.partition("=")
            name, _, model = name.partition(":")
            port = FIRST_PORT + round_number * len(options.servers) + index
            measure(name, model or "smollm2", command, port, options)


if __name__ == "__main__":
    main()

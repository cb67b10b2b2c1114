"""Starts several servers on this machine and has `pagemill bench compare` press them in turns.

    python benchmarks/peers.py \\
        "pagemill=pagemill serve smollm2 --port {port}" \\
        "llama.cpp=llama-server -m smollm2.Q4_0.gguf -t 2 -c 76800 -np 50 --port {port}" \\
        -- --concurrency 1,8,50 --rounds 3 --html report.html

What follows `--` goes to `bench compare`. `NAME#MODEL=COMMAND` names the model of a server that
lists several. All servers stay up, idle while others are measured; each one's first token after its
start and the memory of its processes at the end are printed.
"""

from __future__ import annotations

import http.client
import json
import shlex
import socket
import subprocess
import sys
import time

from pagemill.bench.processes import memory

START_LIMIT_S = 300.0
STOP_LIMIT_S = 30.0


def first_token(port: int, model: str, server: subprocess.Popen[bytes]) -> float:
    """Seconds until the server has answered one token, from now."""
    started = time.perf_counter()
    while time.perf_counter() - started < START_LIMIT_S:
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            name = model or listed(port)
            body = json.dumps({"model": name, "prompt": "The", "max_tokens": 1})
            if request(port, "POST", "/v1/completions", body)[0] == http.client.OK:
                return time.perf_counter() - started
        except (OSError, http.client.HTTPException, LookupError, ValueError):
            pass  # it does not listen yet, or has no model yet
        time.sleep(0.02)
    sys.exit(f"no token within {START_LIMIT_S:g} s")


def listed(port: int) -> str:
    """The first model of a server."""
    return str(json.loads(request(port, "GET", "/v1/models", "")[1])["data"][0]["id"])


def request(port: int, method: str, path: str, body: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> int:
    servers, options = sys.argv[1:], []
    if "--" in servers:
        options = servers[servers.index("--") + 1 :]
        servers = servers[: servers.index("--")]
    if not servers or "-h" in servers or "--help" in servers:
        print(__doc__)
        return 2
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    places = []
    try:
        for server in servers:
            name, _, command = server.partition("=")
            name, _, model = name.partition("#")
            port = free_port()
            argv = shlex.split(command.format(port=port))
            process = subprocess.Popen(  # noqa: S603
                argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            running.append((name, process))
            cold = first_token(port, model, process)
            print(f"{name}: first token {cold:.2f} s after its start", flush=True)
            places.append(f"{name}=http://127.0.0.1:{port}" + (f"#{model}" if model else ""))
        compare = [sys.executable, "-m", "pagemill", "bench", "compare", *places, *options]
        code = subprocess.run(compare, check=False).returncode  # noqa: S603
        for name, process in running:
            if (used := memory(process.pid)) is not None:
                print(f"{name}: {used.resident >> 20} MiB resident, of {used.processes} processes")
        return code
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


if __name__ == "__main__":
    sys.exit(main())

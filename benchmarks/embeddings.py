"""Texts a second: servers of embeddings, and sentence-transformers, in the same rounds.

    python benchmarks/embeddings.py --texts 1000 --rounds 3 \\
        --library "/tmp/st/bin/python all-MiniLM-L6-v2" \\
        "pagemill=pagemill serve ./all-MiniLM-L6-v2 --port {port}" \\
        "llama.cpp=llama-server -m minilm.f32.gguf --embedding -t 2 -ub 2048 --port {port}"

Every round runs the library once and then each server: clients that send `--batches` texts a
request, each the next as soon as it has its answer. The library encodes the same texts in batches
of the same sizes. Texts are random common words, `--words` of them. Beside the rate stands the
processor time that a text costs, all processes of a server together: on a busy machine that is
the steadier figure. `name:model=` names the model in requests; without, the server's first is
asked for.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

from pagemill.bench.processes import tree
from pagemill.bench.prompts import WORDS

FIRST_PORT = 8780
START_LIMIT_S = 120.0

LIBRARY = """
import json, resource, sys, time
import torch
from sentence_transformers import SentenceTransformer
folder, batches, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
model = SentenceTransformer(folder, device="cpu")
texts = json.load(sys.stdin)
def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
for batch in batches:
    model.encode(texts[:batch], batch_size=batch)
    began, cpu = time.perf_counter(), spent()
    model.encode(texts, batch_size=batch)
    print(batch, time.perf_counter() - began, spent() - cpu, flush=True)
"""


def cpu_seconds(pid: int) -> float:
    """Processor time of a process tree."""
    ticks = 0
    for process in tree(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def post(port: int, path: str, body: object) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status == 503:  # not yet
        raise OSError(text[:200].decode(errors="replace"))
    if answer.status != 200:
        raise SystemExit(f"status {answer.status}: {text[:200].decode(errors='replace')}")
    found: dict[str, object] = json.loads(text)
    return found


def wait_until_up(port: int, body: object, server: subprocess.Popen[bytes]) -> None:
    started = time.perf_counter()
    while time.perf_counter() - started < START_LIMIT_S:
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            post(port, "/v1/embeddings", body)
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"no vector within {START_LIMIT_S:g} s")


def through_http(port: int, model: str, texts: list[str], batch: int, clients: int) -> int:
    """Send all texts; the tokens that the server counted."""
    jobs = [texts[at : at + batch] for at in range(0, len(texts), batch)]
    tokens = [0] * clients
    lock = threading.Lock()

    def client(number: int) -> None:
        while True:
            with lock:
                if not jobs:
                    return
                job = jobs.pop(0)
            body = {"input": job, "encoding_format": "base64", "model": model}
            answer = post(port, "/v1/embeddings", body)
            assert len(answer["data"]) == len(job)  # type: ignore[arg-type]
            tokens[number] += answer["usage"]["prompt_tokens"]  # type: ignore[index]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(tokens)


def report(name: str, batch: int, texts: int, wall: float, cpu: float, more: str = "") -> None:
    rate, cost = texts / wall, 1e3 * cpu / texts
    print(f"{name:22s} batch {batch:4d}  {rate:7.1f} texts/s  {cost:6.2f} ms CPU a text{more}")


def measure_server(spec: str, port: int, texts: list[str], options: argparse.Namespace) -> None:
    name, _, command = spec.partition("=")
    name, _, model = name.partition(":")
    argv = shlex.split(command.format(port=port))
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        wait_until_up(port, {"input": texts[:4], "model": model}, server)
        for batch in options.batches:
            through_http(port, model, texts[:batch], batch, 1)
            began, cpu = time.perf_counter(), cpu_seconds(server.pid)
            tokens = through_http(port, model, texts, batch, options.clients)
            wall, cpu = time.perf_counter() - began, cpu_seconds(server.pid) - cpu
            report(name, batch, len(texts), wall, cpu, f"  {tokens / len(texts):.0f} tokens each")
    finally:
        server.terminate()
        server.wait(30)


def measure_library(command: str, texts: list[str], options: argparse.Namespace) -> None:
    python, folder = shlex.split(command)
    argv = [python, "-c", LIBRARY, folder, json.dumps(options.batches), str(options.threads)]
    done = subprocess.run(  # noqa: S603
        argv, input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True
    )
    for line in done.stdout.splitlines():
        batch, wall, cpu = line.split()
        report("sentence-transformers", int(batch), len(texts), float(wall), float(cpu))


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("servers", nargs="*", metavar="NAME[:MODEL]=COMMAND")
    parser.add_argument("--library", metavar="'PYTHON FOLDER'")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--words", type=int, default=98)
    parser.add_argument("--batches", type=numbers, default=[32, 64], metavar="32,64")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the library")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    draw = random.Random(1)  # noqa: S311
    texts = [" ".join(draw.choices(WORDS, k=options.words)) for _ in range(options.texts)]
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        if options.library:
            measure_library(options.library, texts, options)
        for index, spec in enumerate(options.servers):
            measure_server(spec, FIRST_PORT + number * len(options.servers) + index, texts, options)


if __name__ == "__main__":
    main()

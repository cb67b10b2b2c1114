"""`python -m tests.server.serve_fake DRAIN_S DELAY`: a server process with a fake engine."""

import sys

from pagemill.server.app import create_app
from pagemill.server.serve import run
from tests.server.fakes import FakeEngine, FakeModel, FakeRuntime, http_config


def main() -> None:
    http = http_config(port=0, drain_s=float(sys.argv[1]), log_level="error")
    engine = FakeEngine(delay=float(sys.argv[2]))
    runtime = FakeRuntime(FakeModel(engine))
    run(create_app(runtime, http), http, lambda url: print(url, flush=True))
    print("closed" if runtime.closed else "left open", flush=True)


if __name__ == "__main__":
    main()

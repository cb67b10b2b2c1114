"""`pagemill serve`: everything that can be wrong is found before the slow parts are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pagemill.cli import loading
from pagemill.cli import models as here
from pagemill.cli.plan_lines import plan_lines

if TYPE_CHECKING:
    from pagemill.config import Settings
    from pagemill.hub.store import StoredModel

NO_MODELS = "No models yet: `pagemill pull smollm2` fetches one, and it is served at once."


def serve(names: Sequence[str], settings: Settings, *, preload: bool) -> None:
    """Serve `names` (none: whatever the store holds) until a signal; missing ones are pulled.

    A single name is loaded at once: whoever gives one means to use it.
    """
    check_settings(settings)
    preload = preload or len(names) == 1
    if preload and not names:
        names = [str(model.name) for model in here.open_store(settings).list()]
    named = [here.ensure(name, settings) for name in names]
    loading.begin()

    from pagemill.runtime import Runtime

    runtime = Runtime(settings, names)
    if preload and names:
        card, plan = runtime.prestart()  # the engine loads its libraries while we load ours
        lines = plan_lines(str(named[0].name), card, plan)
        lines += plans(named[1:], settings)
    else:
        lines = explain(named, settings)

    from pagemill.server.app import create_app
    from pagemill.server.serve import run

    def listening(url: str) -> None:
        print(f"Pagemill serves at {url} (OpenAI's API: {url}/v1)", *lines, sep="\n", flush=True)
        loading.end()

    app = create_app(runtime, settings.http, names if preload else ())
    run(app, settings.http, listening)


def check_only(names: Sequence[str], settings: Settings) -> str:
    """What `serve` would say, after all of its checks; nothing is fetched or loaded."""
    check_settings(settings)
    lines = explain([here.required(name, settings) for name in names], settings)

    from pagemill.runtime import Runtime

    Runtime(settings, names)  # refuses names that clash
    address = f"{settings.http.host} port {settings.http.port}"
    return "\n".join([f"Pagemill would serve at {address}", *lines, "All is in order."])


def check_settings(settings: Settings) -> None:
    """Refuse an address or a template that cannot be used, before anything is fetched or loaded."""
    from pagemill.server.address import bind, check_exposure

    bind(settings.http).close()
    check_exposure(settings.http)

    from pagemill.runtime import given_template

    given_template(settings.text)


def explain(named: Sequence[StoredModel], settings: Settings) -> list[str]:
    """The plan of every named model; of an unnamed store, what will be loaded on first use."""
    if named:
        return plans(named, settings)
    stored = here.open_store(settings).list()
    names = ", ".join(str(model.name) for model in stored)
    return [f"Loaded on first use: {names}" if names else NO_MODELS]


def plans(named: Sequence[StoredModel], settings: Settings) -> list[str]:
    """The plan of each model.

    Reads the files' headers: one that cannot be read, or that does not fit, ends the start here.
    """
    from pagemill.runtime import open_as_asked, plan_for

    lines: list[str] = []
    for model in named:
        checkpoint = open_as_asked(settings.engine, model.path)
        plan = plan_for(settings.engine, checkpoint, str(model.path))
        lines += plan_lines(str(model.name), checkpoint.card, plan)
    return lines

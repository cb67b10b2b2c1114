"""`ps` and `stop`: what a running server has in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemill.cli import text
from pagemill.cli.remote import Loaded, Server
from pagemill.errors import Unavailable, UnknownModel

if TYPE_CHECKING:
    from pagemill.config import Settings


def find_server(settings: Settings, url: str) -> Server:
    """The server to ask; Unavailable with a hint when nothing listens there."""
    server = Server.chosen(settings.http, url)
    if not server.listens():
        raise Unavailable(
            f"no server at {server.url}; `pagemill serve` starts one, --url names another"
        )
    return server


def stop(server: Server, name: str) -> str:
    """Unload a model, however its name is spelled; the name that the server knows it by."""
    from pagemill.cli.models import matching

    loaded = server.loaded()
    found = matching(name, loaded)
    if found is None:
        names = ", ".join(model.name for model in loaded) or "nothing"
        raise UnknownModel(f"{name!r} is not loaded on {server.url}; loaded: {names}")
    server.unload(found.name)
    return found.name


def ps_table(models: list[Loaded]) -> str:
    """The table of `ps`: what each model takes and how busy it is."""
    header = ("NAME", "SIZE", "PROCESSOR", "CONTEXT", "RUNNING", "WAITING", "KV CACHE")
    rows = [
        (
            model.name,
            text.size(model.size),
            model.backend,
            str(model.context),
            str(model.running),
            str(model.waiting),
            f"{100 * model.pages_used / max(1, model.pages_total):.0f}% used",
        )
        for model in models
    ]
    return text.table(header, rows)

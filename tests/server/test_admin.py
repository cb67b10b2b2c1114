"""What `pagemill ps` and `pagemill stop` ask a server."""

from pagemill.errors import Unavailable
from tests.server.conftest import Live, Start
from tests.server.fakes import FakeEngine, FakeModel


async def test_rows_of_loaded_models(live: Live) -> None:
    answer = await live.http.get("/pagemill/models")
    [row] = answer.json()["models"]
    assert (row["name"], row["backend"], row["running"], row["waiting"]) == ("tiny", "cpu", 0, 0)
    assert row["context"] > 0 and row["size"] > 0


async def test_an_engine_that_does_not_answer_is_still_listed(start: Start) -> None:
    live = await start(FakeModel(FakeEngine(broken=Unavailable("restarting"))))
    [row] = (await live.http.get("/pagemill/models")).json()["models"]
    assert row["name"] == "tiny" and row["size"] > 0


async def test_unload(live: Live) -> None:
    assert (await live.post("/pagemill/unload", model="tiny")).json() == {"unloaded": "tiny"}
    assert (await live.http.get("/pagemill/models")).json() == {"models": []}
    again = await live.post("/pagemill/unload", model="tiny")
    assert again.status_code == 404
    assert "loaded: none" in again.json()["error"]["message"]


async def test_a_key_guards_both(start: Start) -> None:
    live = await start(api_key=("secret",))
    assert (await live.http.get("/pagemill/models")).status_code == 401
    assert (await live.post("/pagemill/unload", model="tiny")).status_code == 401

"""Clients that are closed after the test."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from pagemill.engine.client import Patience, ProcessClient
from pagemill.engine.local import LocalClient
from pagemill.types import EnginePlan
from tests.engine import fake_engine
from tests.engine.doors import IMPATIENT, Client, Open, spawn
from tests.engine.fake_engine import PLAN


@pytest.fixture(params=["local", "process"])
async def open_client(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Makes clients of one kind; all are closed afterwards."""
    clients: list[Client] = []

    def make(plan: EnginePlan = PLAN) -> Client:
        if request.param == "local":
            client: Client = LocalClient(fake_engine.build(replace(plan, max_queued=9999))[0], plan)
        else:
            client = ProcessClient(plan, spawn, patience=IMPATIENT)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def open_process() -> AsyncIterator[Callable[..., ProcessClient]]:
    clients: list[ProcessClient] = []

    def make(plan: EnginePlan = PLAN, patience: Patience = IMPATIENT) -> ProcessClient:
        clients.append(ProcessClient(plan, spawn, patience=patience))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()

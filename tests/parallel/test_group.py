"""What a group asks of its libraries before ranks meet."""

import os

import pytest

from pagemill.parallel.group import Group
from pagemill.parallel.seat import Seat


@pytest.mark.parametrize("asked", [None, "1"])
def test_libraries_stay_on_this_machine_and_do_not_watch(
    monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    given = {} if asked is None else {"TORCH_NCCL_ENABLE_MONITORING": asked}
    monkeypatch.setattr(os, "environ", given)
    monkeypatch.setattr(Group, "_join", lambda self, meeting: None)
    monkeypatch.setattr(Group, "_shake_hands", lambda self: None)
    Group(Seat(0), "nowhere", "cuda:0")
    assert given["NCCL_SOCKET_IFNAME"] == given["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    assert given["TORCH_NCCL_ENABLE_MONITORING"] == (asked or "0")

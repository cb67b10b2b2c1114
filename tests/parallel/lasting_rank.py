"""The program of a rank that joins one network after another."""

import os
import socket

from pagemill.engine import process
from pagemill.parallel import rank


def main(handle: int) -> None:
    rank.begin()
    door = socket.socket(fileno=handle)
    process.die_with_parent(door)
    orders = rank.Orders(door)
    while rank.serve(orders, door) == 0:
        pass
    os._exit(1)

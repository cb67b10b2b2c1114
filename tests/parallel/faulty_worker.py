"""The program of an engine process whose other ranks are faulty."""

from functools import partial

from pagemill import worker
from pagemill.engine import process


def main(handle: int) -> None:
    process.main(handle, partial(worker.build, rank_entry="tests.parallel.faulty_rank"))

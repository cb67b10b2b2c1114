"""Facts of the machine: a container's limits count, missing files do not hurt."""

from pathlib import Path

import pytest

from pagemill import machine

GIB = 1 << 30


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 GiB, 6 of them available, and 64 cores; no groups yet."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    (tmp_path / "meminfo").write_text(
        f"MemTotal:  {8 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable:  {6 * GIB // 1024} kB\n"
    )
    return tmp_path


def group(files: Path, folder: str, **contents: str) -> None:
    path = files / "groups" / folder
    path.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (path / name.replace("__", ".")).write_text(text + "\n")


def facts() -> tuple[int, float, float]:
    found = machine.this_machine()
    return found.cores, found.memory_bytes / GIB, found.available_bytes / GIB


def test_a_plain_machine(files: Path) -> None:
    assert facts() == (64, 8, 6)


def test_limits_of_every_level_hold(files: Path) -> None:
    (files / "own").write_text("0::/a/b\n")
    group(files, "a/b", memory__max="max", cpu__max="250000 100000")
    group(
        files,
        "a",
        memory__max=str(4 * GIB),
        memory__current=str(3 * GIB),
        memory__stat=f"anon 1\ninactive_file {GIB}",
    )
    assert facts() == (3, 4, 2)


def test_groups_of_version_1(files: Path) -> None:
    (files / "own").write_text("4:memory:/x\n3:cpu,cpuacct:/x\n1:name=systemd:/x\n")
    group(files, "memory/x", **{"memory__limit_in_bytes": str(GIB), "memory__usage_in_bytes": "0"})
    group(files, "cpu,cpuacct/x", cpu__cfs_quota_us="100000", cpu__cfs_period_us="50000")
    assert facts() == (2, 1, 1)


def test_no_limit_is_no_limit(files: Path) -> None:
    (files / "own").write_text("4:memory:/\n0::/\n")
    group(files, "memory", memory__limit_in_bytes=str(2**63 - 4096))
    group(files, ".", cpu__max="max 100000")
    assert facts() == (64, 8, 6)


def test_a_machine_that_tells_nothing(files: Path) -> None:
    (files / "meminfo").unlink()
    cores, memory, available = facts()
    assert cores == 64
    assert 0 < available < memory

"""Numbers, times and columns as people read them."""

from pagemill.cli.text import age, count, duration, size, table


def test_sizes_counts_and_durations() -> None:
    assert [size(n) for n in (0, 999, 1500, 106_954_752, 2.5e9, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 KB",
        "107 MB",
        "2.5 GB",
        "3.0 TB",
    ]
    assert [count(n) for n in (512, 134_515_008, 1.7e9)] == ["512", "135M", "1.7B"]
    assert [duration(s) for s in (0.0123, 2.5, 75)] == ["12.3ms", "2.50s", "1m15s"]


def test_ages() -> None:
    assert age(100, now=130) == "just now"
    assert age(0, now=60) == "1 minute ago"
    assert age(0, now=3 * 86400 + 5) == "3 days ago"
    assert age(500, now=0) == "just now"  # a clock that was set back


def test_table_pads_columns_and_ends_lines_cleanly() -> None:
    assert table(("NAME", "ID"), [("smollm2", "x"), ("a", "")]) == (
        "NAME       ID\nsmollm2    x\na"
    )

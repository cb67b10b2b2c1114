"""Reports: tables, pictures, pages that need nothing else, records, and where lines cross."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from pagemill.bench import plot, tell
from pagemill.bench.ask import Target
from pagemill.bench.dialects import DIALECTS
from pagemill.bench.document import Bars, Document, Line, Plot, Table, ms, number, ratio
from pagemill.bench.facts import Facts
from pagemill.bench.load import Aim, Level, Load
from pagemill.bench.measure import Measured
from pagemill.bench.page import page
from pagemill.bench.samples import Run, Sample
from pagemill.bench.wire import Address, Wire

FACTS = Facts("pagemill bench <b>", "2026-01-01", "0.1.0", "3.11", "Linux", "A CPU", 2, 8 << 30)
LOAD = Load((Level(1), Level(9)), aim=Aim.parse("ttft=150ms"))
VOID = {"meta", "br", "hr"}


def target(name: str) -> Target:
    wire = Wire(Address.parse("127.0.0.1:1"), "")
    return Target(name, "Some 1.0", "m", wire, DIALECTS["completions"], {}, True)


def run_of(level: Level, rate: float, first: float, error: str = "") -> Run:
    """A run of 100 tokens at a rate."""
    sample = Sample(0, 0, first, 1, 1, (0.01, 0.03), 100, 100, "usage", 10, error=error)
    return Run(level, (sample,), 100 / rate, 0.001)


def found(figures: dict[str, tuple[tuple[float, float], tuple[float, float]]]) -> list[Measured]:
    """Two rounds; (tokens a second, first token) at one and nine users."""
    return [
        Measured(target(name), round_, run_of(level, rate, first))
        for round_ in (0, 1)
        for name, levels in figures.items()
        for level, (rate, first) in zip(LOAD.levels, levels, strict=True)
    ]


TWO = found({"one": ((100, 0.1), (200, 0.5)), "two": ((50, 0.2), (400, 0.3))})


class Checked(HTMLParser):
    """Refuses what is not closed, and what points outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object"), tag
        assert not {name for name, _ in attrs} & {"src", "href", "srcset", "onclick", "onload"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Checked:
    assert not re.search(r"https?://(?!127\.0\.0\.1)|url\(|@import", html)
    checked = Checked()
    checked.feed(html)
    checked.close()
    assert not checked.open
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
    return checked


def test_the_page_of_one_server() -> None:
    mine = [measured for measured in TWO if measured.target.name == "one" and not measured.round_]
    made = tell.record("serve", FACTS, LOAD, [target("one")], mine)
    document = tell.one_server(made, LOAD)
    html = page(document)
    text = parsed(html).text
    assert (
        html.count("<svg") == 2 and "pagemill bench <b>" in text and "prefers-color-scheme" in html
    )
    table = document.parts[0]
    assert isinstance(table, Table)
    assert table.rows[0][:5] == ["1 user", "1/1", "100", "1.00", "1.00"]
    assert table.rows[1][:5] == ["9 users", "1/1", "200", "2.00", "0.00"]


def test_the_page_of_several() -> None:
    made = tell.record("compare", FACTS, LOAD, [target("one"), target("two")], TWO)
    document = tell.several_servers(made, LOAD)
    parsed(page(document))
    table = document.parts[0]
    assert isinstance(table, Table)
    assert [row[:5] for row in table.rows[:2]] == [
        ["1 user", "one", "2/2", "100", "1.00"],
        ["1 user", "two", "2/2", "50.0", "0.50"],
    ]
    assert table.rows[3][6:8] == ["300", "0.60"]  # first token of two at nine users, to one's
    # 100 to 200 meets 50 to 400 a fifth of the way; 100 to 500 ms meets 200 to 300 a third of it.
    assert [(c.measure, c.server, c.other, c.between) for c in made.crossings] == [
        ("throughput", "two", "one", (1, 9)),
        ("first token (p50)", "two", "one", (1, 9)),
    ]
    assert [c.amount for c in made.crossings] == pytest.approx([1 + 8 / 5, 1 + 8 / 3])
    assert "two overtakes one at about 2.60 users" in document.notes[0]


def test_lines_that_do_not_cross_are_said_not_to() -> None:
    apart = found({"one": ((100, 0.1), (200, 0.5)), "two": ((50, 0.2), (100, 0.9))})
    made = tell.record("compare", FACTS, LOAD, [target("one"), target("two")], apart)
    assert not made.crossings
    assert "No lines cross between the measured levels." in tell.several_servers(made, LOAD).notes


def test_failures_are_told() -> None:
    broken = [Measured(target("one"), 0, run_of(Level(1), 100, 0.1, error="it <fell>"))]
    made = tell.record("serve", FACTS, LOAD, [target("one")], broken)
    document = tell.one_server(made, LOAD)
    assert document.notes == ["one: 1 failed: it <fell>"]
    assert "it <fell>" in parsed(page(document)).text


def test_records_for_other_programs() -> None:
    made = tell.record("compare", FACTS, LOAD, [target("one"), target("two")], TWO)
    read = json.loads(msgspec.json.encode(made))
    assert (read["schema"], read["kind"], len(read["runs"])) == (1, "compare", 8)
    assert read["runs"][0]["summary"]["first_token"]["p99"] == 0.1
    assert read["facts"]["command"] == "pagemill bench <b>"
    rows = list(csv.DictReader(io.StringIO(tell.samples_csv(TWO))))
    assert len(rows) == 8
    assert (rows[0]["server"], rows[0]["round"], rows[0]["first_token_s"]) == (
        "one",
        "1",
        "0.100000",
    )
    assert (rows[0]["pieces"], rows[0]["output_tokens"], rows[0]["counted"]) == (
        "3",
        "100",
        "usage",
    )


@pytest.mark.parametrize("log_x", [True, False])
@pytest.mark.parametrize("points", [[(1, 5.0)], [(1, 0.0), (2, 0.0)], [(0.5, 3), (50, 1e6)]])
def test_plots_of_odd_values(points: list[tuple[float, float]], log_x: bool) -> None:
    drawn = plot.lines(Plot("<t>", "x", "y", [Line("a&b", points)], log_x=log_x))
    svg = ElementTree.fromstring(drawn[: drawn.index("</svg>") + 6])
    for circle in svg.iter("circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= plot.WIDTH
        assert 0 <= float(circle.get("cy", "-1")) <= plot.HEIGHT


def test_empty_pictures() -> None:
    assert plot.lines(Plot("t", "x", "y", [])) == "" == plot.bars(Bars("t", "s", ["a"], []))
    parsed(page(Document("t", [], [Bars("b", "s", ["a", "b"], [("x", (0, 0)), ("y", (1, 2))])])))


def test_numbers_have_three_digits() -> None:
    assert [number(v) for v in (1234.5, 123.4, 12.34, 1.234, None)] == [
        *("1,234", "123", "12.3", "1.23", "-")
    ]
    assert ms(0.0123) == "12.3" and ratio(3, 2) == "1.50" and ratio(None, 2) == "-" == ratio(1, 0)

"""Knobs: what is sent, and what is refused."""

import pytest

from pagemill.cli.talk import TALKING, Knobs
from pagemill.errors import InvalidRequest


def test_body_holds_what_is_set_and_what_gives_way_to_the_model() -> None:
    knobs = Knobs(0, stop=("x",))
    assert knobs.given() == {"temperature": 0, "stop": ["x"]}
    assert knobs.body() == {"temperature": 0, "stop": ["x"], "sampling_defaults": TALKING}
    assert knobs.body(ours=False) == {**TALKING, "temperature": 0, "stop": ["x"]}


def test_set_from_text_under_both_names() -> None:
    assert Knobs().with_text("num_predict", "5").max_tokens == 5
    assert Knobs().with_text("temperature", "0.5").temperature == 0.5
    assert Knobs(stop=("a",)).with_text("stop", "b").stop == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("temperature", "3", "temperature must be a number from 0 to 2, not 3"),
        ("temperature", "hot", "temperature must be a number, not 'hot'"),
        ("max_tokens", "0", "max_tokens must be an integer from 1"),
        ("warmth", "1", "no parameter 'warmth'; there are temperature"),
    ],
)
def test_a_wrong_value_is_named_with_its_limits(name: str, text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        Knobs().with_text(name, text)

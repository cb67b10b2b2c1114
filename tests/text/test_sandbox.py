"""Hostile templates: every one ends in a clear error, soon, and leaves no trace."""

import time
from pathlib import Path

import pytest

from pagemill.errors import BadModelFile, InvalidRequest
from pagemill.text.budget import TemplateLimits
from pagemill.text.chat import ChatTemplate
from pagemill.text.messages import Habits, Message

MESSAGES = [Message("user", "hello")]

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ messages.__class__.__base__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__self__ }}",
    "{{ strftime_now.__func__.__globals__['os'].system('touch MARKER') }}",
    "{{ namespace.__init__.__globals__['sys'].modules['os'].system('touch MARKER') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ dict.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ ''|attr('__class__') }}",
    "{{ ['']|map('attr', '__class__')|list }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ ['']|groupby('__class__') }}",
    "{{ '{0[a]}'.format({'a': 1}) }}",
    "{{ '{:9999999999}'.format(1) }}",
    "{{ '{!r}'.format(messages) }}",
    "{{ '{0}'.format(messages.append) }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ '%s' % messages }}",
    "{{ ('{0.__class__}'|safe).format(1) }}",
    "{% set f = 'a'.format_map %}{{ f({}) }}",
    "{{ '%s'|format('a') }}",
    "{{ cycler('a') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARKER') }}",
    "{{ lipsum.__globals__['os'].popen('touch MARKER').read() }}",
    "{{ joiner.__init__ }}",
    "{% include 'MARKER' %}",
    "{% import 'MARKER' as x %}",
    "{% from 'MARKER' import x %}",
    "{% extends 'MARKER' %}",
    "{% block x %}{% endblock %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{% macro a() %}{% endmacro %}{{ a._func }}",
    "{% macro a() %}{% endmacro %}{{ a._environment }}",
    "{% for x in [1] %}{{ loop._undefined }}{% endfor %}",
    "{{ (1).to_bytes(9, 'big') }}",
    "{{ [1]|map('system')|list }}",
    "{{ messages[0]|attr('update') }}",
    "{{ (''|attr('format_map'))({}) }}",
    "{% set ns = namespace() %}{{ ns|attr('__init__') }}",
    "{{ ns.__class__ if ns is defined else namespace.__class__ }}",
    "{{ ''|safe|attr('__html__') }}",
    "{{ (''|safe).unescape() }}",
    "{{ (''|safe).striptags() }}",
    "{{ joiner(', ') }}",
    "{{ url_for }}{{ url_for.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ config.items() }}",
    "{{ request.application.__globals__ }}",
    "{% import 'os' as os %}{{ os.system('touch MARKER') }}",
    "{% for c in [].__class__.__base__.__subclasses__() %}{% endfor %}",
    "{% set x = messages.pop() %}",
    "{{ messages.sort() }}",
    "{{ messages[0].setdefault('a', 1) }}",
    "{{ messages[0].clear() }}",
    "{% set messages[0].role = 'x' %}",
    "{% macro m() %}{% endmacro %}{{ m.__init__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
    "{{ range.__init__ }}",
    "{{ (range(3)).__class__ }}",
    "{{ loop }}{% for x in [1] recursive %}{{ loop.__class__ }}{% endfor %}",
    "{% call(x) cycler() %}{% endcall %}",
    "{{ debug() }}{% debug %}",
    "{% do 1 %}",
    "{% trans %}x{% endtrans %}",
    "{% autoescape true %}x{% endautoescape %}",
]
BOMBS = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ range(10**30) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ 10**10 * 'a' }}",
    "{{ [1] * 10**10 }}",
    "{{ 9**9**9**9 }}",
    "{{ '%1000000000d' % 5 }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ ('a'*100000)|replace('', 'b'*100000) }}",
    "{{ ('a'*100000).replace('', 'b'*100000) }}",
    "{{ ('a'*100000).join(['']*100000) }}",
    "{{ ['']*100000|join('a'*100000) }}",
    "{{ ('a'*100000)|indent(1000000000) }}",
    "{{ [1]|tojson(indent=1000000000) }}",
    "{{ [1]|tojson(separators=('a'*100000, 'b')) }}",
    "{{ ('a'*100000).strip('b'*100000 ~ 'a') }}",
    "{{ strftime_now('%1000000000d') }}",
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}"
    "{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro m() %}{% set ns.v = varargs %}{% endmacro %}{% set ns = namespace(v=1) %}"
    "{% for i in range(60) %}{{ m(ns.v, ns.v) }}{% endfor %}{{ ns.v }}",
    "{{ " + "1+" * 20_000 + "1 }}",
    "{{ " + "[" * 20_000 + "1" + "]" * 20_000 + " }}",
    "{{ 'a'" + "|upper" * 20_000 + " }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(10**5) }}",
    "{% macro m(n) %}{{ m(n + 1) if n < 10**5 }}x{% endmacro %}{{ m(0) }}",
    "{{ ('{0}' * 100000).format('a' * 1000) }}",
    "{{ ('{}' * 400000).format(*range(99999)) }}",
    "{{ (('&' * 100000)|safe) + '&' * 1000000 }}",
    "{{ range(99999)|sum }}{{ range(99999)|batch(1)|list }}",
    "{{ range(99999)|list|tojson(indent=16) ~ range(99999)|list|tojson(indent=16) }}",
    "{% for a in range(999) %}{{ range(99999)|list|sort|join }}{% endfor %}",
    "{% for a in range(9999) %}{{ ('a' * 99999).split('a')|length }}{% endfor %}",
    "{% for a in range(9999) %}{{ ('a' * 99999) in ('b' * 999999) }}{% endfor %}",
    "{% set ns = namespace(d={}) %}{% for i in range(99999) %}"
    "{% set ns.d = dict(ns.d, **{i|string: 'x' * 100}) %}{% endfor %}",
]  # fmt: skip
# What a loop of 100 turns makes of ns.s, each time about twice as large.
DOUBLINGS = [
    "{% set ns.s = ns.s + ns.s %}",
    "{% set ns.s = ns.s ~ ns.s %}",
    "{% set ns.s = ns.s * 2 %}",
    "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
    "{% set ns.s = [ns.s, ns.s] %}",
    "{% set ns.s = (ns.s, ns.s) %}",
    "{% set ns.s = {'a': ns.s, 'b': ns.s} %}",
    "{% set ns.s = dict(a=ns.s, b=ns.s) %}",
    "{% set ns.s = [ns.s, ns.s]|join %}",
    "{% set ns.s = ns.s|replace('a', 'aa') %}",
    "{% set ns.s = namespace(a=ns.s, b=ns.s) %}{{ ns.s }}",
    "{% set ns.s = [namespace(a=ns.s, b=ns.s)] %}",
    "{% set ns.s = (ns.s ~ '\"')|tojson %}",
    "{% set ns.s = ns.s|indent(16, true) ~ '\n\n' ~ ns.s %}",
    "{% set ns.s = '{0}{0}'.format(ns.s) %}",
    "{% set ns.s = (ns.s ~ '&')|escape %}{% set ns.s = ns.s + ns.s %}",
    "{% filter replace('a', 'aa') %}{{ ns.s }}{% endfilter %}{% set ns.s = ns.s * 2 %}",
]
LOOPED = [
    "{% set ns = namespace(s='a') %}{% for i in range(100) %}" + body + "{% endfor %}{{ ns.s }}"
    for body in DOUBLINGS
]


@pytest.mark.parametrize("source", [*ESCAPES, *BOMBS, *LOOPED], ids=lambda source: source[:60])
def test_hostile_templates(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.thread_time()
    with pytest.raises((BadModelFile, InvalidRequest)) as caught:
        ChatTemplate(source, bos_token="", eos_token="").render(MESSAGES)
    assert time.thread_time() - start < 5
    assert not list(tmp_path.iterdir())
    assert caught.value.message.startswith(("chat template: ", "the chat template was stopped: "))
    assert " at 0x" not in caught.value.message


def test_time_runs_out() -> None:
    limits = TemplateLimits(seconds=0.05, steps=1 << 40)
    source = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidRequest, match=r"more than 0\.05 seconds"):
        ChatTemplate(source, bos_token="", eos_token="", limits=limits).render(MESSAGES)


def test_trials_of_a_hostile_template_are_short() -> None:
    source = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate(source, bos_token="", eos_token="")
    start = time.thread_time()
    assert (template.habits, template.part_roles) == (Habits(empty_content=True), frozenset())
    assert time.thread_time() - start < 4


def test_limits_grow_with_what_is_asked() -> None:
    content = "word " * 1_000_000
    source = "{% for m in messages %}{{ m.content | trim ~ '\n' }}{% endfor %}"
    rendered = ChatTemplate(source, bos_token="", eos_token="").render([Message("user", content)])
    assert rendered == content.strip() + "\n"


def test_a_long_conversation_stays_in_its_budget() -> None:
    source = (
        "{% for m in messages %}{% set ns = namespace(later=false) %}"
        "{% for n in messages[loop.index:loop.index + 100] %}{% if n.role == 'user' %}"
        "{% set ns.later = true %}{% endif %}{% endfor %}{{ m.content }}{% endfor %}"
    )
    rendered = ChatTemplate(source, bos_token="", eos_token="").render(MESSAGES * 2000)
    assert rendered == "hello" * 2000

"""Filters, operators and string methods of the template sandbox, each counted before it is run.

Owns the list of filters that exist there and what each may cost. It must not know how templates are
compiled. A name with an underscore in front is one that no template can write.
"""

import json
import operator
import string
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Undefined
from jinja2.utils import Namespace
from markupsafe import Markup, escape

from pagemill.text.budget import Budget, BudgetContext

# Filters of Jinja that cannot make a value much larger than what they are given.
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int"),
    *("items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("reverse", "select", "selectattr", "sort", "title", "truncate", "unique", "upper"),
)
_PLAIN = (str, int, float, list, tuple, Mapping, type(None), Undefined)
_MAX_STRIP = 256  # characters to strip: the time is their number times that of the text
_MAX_INDENT = 16


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja, counted, and its result weighed."""
    passes = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @pass_context
    def guarded(context: BudgetContext, *args: Any, **kwargs: Any) -> Any:
        context.budget.step()
        if any(isinstance(arg, Namespace) for arg in args):
            raise SecurityError("a namespace cannot be filtered")
        first = {
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (context.environment,),
        }.get(passes, ())
        result = function(*first, *args, **kwargs)
        context.budget.weigh(result)
        return result

    return guarded


def _text(context: BudgetContext, value: Any) -> str:
    """A value written out, charged. Only kinds whose length was weighed before can be."""
    if not isinstance(value, _PLAIN):
        raise SecurityError(f"a {type(value).__name__} cannot be written out")
    context.budget.weigh(value)
    return str(value)


@pass_context
def finalize(context: BudgetContext, value: Any) -> str:
    return _text(context, value)


@pass_context
def _turns(context: BudgetContext, items: Any) -> Any:
    if isinstance(items, Undefined):
        return items
    return _counted(context.budget, items)


def _counted(budget: Budget, items: Any) -> Iterator[Any]:
    for item in items:
        budget.step()
        yield item


@pass_context
def _made(context: BudgetContext, value: Any) -> Any:
    context.budget.weigh(value)
    return value


@pass_context
def _concat(context: BudgetContext, parts: list[Any]) -> str:
    texts = [_text(context, part) for part in parts]
    context.budget.charge(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _string(context: BudgetContext, value: Any) -> str:
    return _text(context, value)


@pass_context
def _safe(context: BudgetContext, value: Any) -> str:
    # As with Jinja, and so in the prompts that models know: it escapes what is added to it by "+".
    return Markup(_text(context, value))  # noqa: S704


@pass_context
def _escape(context: BudgetContext, value: Any) -> str:
    text = escape(_text(context, value))
    context.budget.charge(len(text))
    return text


@pass_context
def _replace(context: BudgetContext, value: Any, old: str, new: str, count: int = -1) -> str:
    text = _text(context, value)
    check_str_method(context.budget, text, "replace", (old, new, count))
    return text.replace(old, new, -1 if count is None else count)


@pass_context
def _trim(context: BudgetContext, value: Any, chars: str | None = None) -> str:
    text = _text(context, value)
    check_str_method(context.budget, text, "strip", (chars,))
    return text.strip(chars)


@pass_context
def join(context: BudgetContext, value: Any, d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        environment = context.environment
        value = [environment.getitem(item, attribute) for item in value]
    texts = [_text(context, item) for item in _counted(context.budget, value)]
    context.budget.charge(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


@pass_context
def _indent(
    context: BudgetContext, value: Any, width: int = 4, first: bool = False, blank: bool = False
) -> str:
    text = _text(context, value)
    if isinstance(width, bool) or not isinstance(width, int) or not 0 <= width <= _MAX_INDENT:
        raise SecurityError(f"an indentation is a number from 0 to {_MAX_INDENT}")
    lines = text.split("\n")
    context.budget.charge(len(text) + width * len(lines))
    pad = " " * width
    rest = [pad + line if line or blank else line for line in lines[1:]]
    return "\n".join([pad + lines[0] if first else lines[0], *rest])


@pass_context
def _tojson(
    context: BudgetContext,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it: no escapes for HTML."""
    if indent is not None and (not isinstance(indent, int) or not 0 <= indent <= _MAX_INDENT):
        raise SecurityError(f"an indentation is a number from 0 to {_MAX_INDENT}")
    if any(len(separator) > _MAX_INDENT for separator in separators or ()):
        raise SecurityError(f"a separator has more than {_MAX_INDENT} characters")
    context.budget.weigh(value)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    pieces = []
    length = 0
    for piece in encoder.iterencode(value):
        length += len(piece)
        if length > context.budget.value_chars:
            break
        pieces.append(piece)
    context.budget.charge(length)
    return "".join(pieces)


@pass_context
def limited_range(context: BudgetContext, *args: int) -> range:
    items = range(*args)
    context.budget.count_range(items)
    return items


def format_text(
    context: BudgetContext, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    """`str.format`, for fields that name a value and no more: {}, {0} or {name}."""
    pieces: list[str] = []
    numbers = iter(range(len(args)))
    for literal, name, spec, conversion in string.Formatter().parse(text):
        context.budget.step()
        pieces.append(literal)
        if name is None:
            continue
        if spec or conversion or not (name == "" or name.isdecimal() or name.isidentifier()):
            raise SecurityError("a format may hold {}, {0} and {name}, without anything else")
        if name.isidentifier():
            value = kwargs[name]
        else:
            value = args[int(name)] if name else args[next(numbers, len(args))]
        pieces.append(_text(context, value))
    context.budget.charge(sum(map(len, pieces)))
    return "".join(pieces)


def check_str_method(budget: Budget, text: str, name: str, args: tuple[Any, ...]) -> None:
    """Charge what a method of a string is about to make, before it makes it."""
    if name == "replace" and len(args) >= 2:
        old, new = args[:2]
        if isinstance(old, str) and isinstance(new, str):
            found = text.count(old)
            budget.charge(len(text) + found * max(len(new) - len(old), 0))
    elif name in ("strip", "lstrip", "rstrip") and len(args[0] or "" if args else "") > _MAX_STRIP:
        raise SecurityError(f"more than {_MAX_STRIP} characters to strip")


OPERATORS = MappingProxyType(
    {"+": operator.add, "*": operator.mul, "**": operator.pow, "%": operator.mod}
)
_OWN_FILTERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "_concat": _concat,
        "_made": _made,
        "_turns": _turns,
        "e": _escape,
        "escape": _escape,
        "indent": _indent,
        "join": join,
        "replace": _replace,
        "safe": _safe,
        "string": _string,
        "tojson": _tojson,
        "trim": _trim,
    }
)


def sandbox_filters() -> dict[str, Callable[..., Any]]:
    """Every filter that a template may name, and those that only its compiler may."""
    return {**{name: _guarded(FILTERS[name]) for name in _FILTERS}, **_OWN_FILTERS}

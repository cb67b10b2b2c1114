"""Jinja for templates that nobody vouches for.

Owns what a template may name, call and use up. It must not know messages or models. Three fences
stand one behind the other: Jinja's immutable sandbox; lists of the only filters, functions and
methods that exist here; and a budget, counted wherever a template can loop, call, or make a larger
value out of smaller ones. Whatever is not on a list does not exist, so a new Jinja brings no new
way out.
"""

import json
import operator
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from markupsafe import escape

from pagemill.text.budget import Budget

# Filters of Jinja that cannot make a value much larger than what they are given.
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int"),
    *("items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("reverse", "select", "selectattr", "sort", "title", "truncate", "unique", "upper"),
)
_METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: frozenset(
            (
                *("capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha"),
                *("isdigit", "islower", "isspace", "isupper", "join", "lower", "lstrip"),
                *("partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex"),
                *("rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip"),
                *("title", "upper"),
            )
        ),
        dict: frozenset(("copy", "get", "items", "keys", "values")),
        list: frozenset(("copy", "count", "index")),
        tuple: frozenset(("count", "index")),
        LoopContext: frozenset(("changed", "cycle")),
    }
)
_REFUSED_NODES = (
    *(nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block),
    *(nodes.EvalContextModifier, nodes.ScopedEvalContextModifier),
)
_PLAIN = (str, int, float, list, tuple, Mapping, type(None), Undefined)
_MAX_STRIP = 256  # characters to strip: the time is their number times that of the text
_MAX_INDENT = 16


class BudgetContext(Context):
    """Jinja's variables of one rendering, with its budget."""

    budget: Budget

    def derived(self, locals: dict[str, Any] | None = None) -> "BudgetContext":
        context = super().derived(locals)
        assert isinstance(context, BudgetContext)
        context.budget = self.budget
        return context


class _Generation(Extension):
    """`{% generation %}`, which marks answers for training: here its content and no more."""

    tags = {"generation"}  # noqa: RUF012  (an instance variable to Jinja)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, set up as the templates of published models expect. `functions` are the globals
    that templates may call, besides `range`, `dict` and `namespace`.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    context_class = BudgetContext

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=_finalize,
            # Nothing is computed at load, where no budget is counted.
            optimized=False,
        )
        known: dict[str, Callable[..., Any]] = {"dict": dict, "namespace": Namespace}
        self._range = pass_context(_limited_range)
        self.globals = {**known, **functions, "range": self._range}
        self._functions = tuple(self.globals.values())
        self.filters = {name: _guarded(FILTERS[name]) for name in _FILTERS}
        self.filters.update(_OWN_FILTERS)

    def load(self, source: str) -> jinja2.Template:
        """Compile a template. jinja2.TemplateError, SyntaxError and RecursionError come out."""
        tree = self.parse(source)
        for node in tree.find_all(_REFUSED_NODES):
            raise SecurityError(f"line {node.lineno}: {type(node).__name__} is not allowed")
        _count_steps(tree)
        return jinja2.Template.from_code(self, self.compile(tree), self.globals)

    def run(self, template: jinja2.Template, variables: Mapping[str, Any], budget: Budget) -> str:
        """Render within the budget. Whatever the template raises comes out as it is."""
        context = template.new_context(dict(variables))
        assert isinstance(context, BudgetContext)
        context.budget = budget
        pieces = []
        length = 0
        for piece in template.root_render_func(context):
            length += len(piece)
            budget.step()
            if length > budget.value_chars:
                budget.charge(length)
            pieces.append(piece)
        return "".join(pieces)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        return not callable(value) or isinstance(value, Macro) or self.is_safe_callable(value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Refuse at once what Jinja would let be written out as nothing."""
        kind = type(obj).__name__
        raise SecurityError(f"access to {attribute[:64]!r} of a {kind} is not allowed")

    def is_safe_callable(self, obj: Any) -> bool:
        if isinstance(obj, Macro | LoopContext | Undefined):
            return True
        if any(obj is function for function in self._functions):
            return True
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        return any(isinstance(owner, kind) and name in _METHODS[kind] for kind in _METHODS)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call of a template: functions, methods, macros."""
        assert isinstance(__context, BudgetContext)
        budget = __context.budget
        budget.step()
        if not __self.is_safe_callable(__obj):
            name = getattr(__obj, "__name__", type(__obj).__name__)
            raise SecurityError(f"calling {name[:64]!r} is not allowed")
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            if __obj.__name__ == "join":
                return _join(__context, args[0], owner)
            _check_str_method(budget, owner, __obj.__name__, args)
        if isinstance(__obj, Macro) and (__obj.catch_varargs or __obj.catch_kwargs):
            budget.weigh(args)
            budget.weigh(kwargs)
        budget.enter()
        try:
            result = super().call(__context, __obj, *args, **kwargs)
        finally:
            budget.leave()
        budget.weigh(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+`, `*`, `**` and `%`: the operators whose result can be larger than their operands."""
        assert isinstance(context, BudgetContext)
        if operator in ("**", "%") and not isinstance(left, int | float):
            raise SecurityError(f"{operator!r} is for numbers")
        if operator == "**":
            bits = left.bit_length() if isinstance(left, int) else 1
            context.budget.count_bits(bits * right if isinstance(right, int) else 1)
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                    context.budget.charge(len(sequence) * max(times, 0))
        result = _OPERATORS[operator](left, right)
        context.budget.weigh(result)
        return result


def _count_steps(tree: nodes.Template) -> None:
    """Put a counter into every loop and a scale on everything that builds a larger value."""
    for loop in tree.find_all(nodes.For):
        assert isinstance(loop.iter, nodes.Expr)
        loop.iter = _through("_turns", loop.iter)
    _weigh_literals(tree)


def _weigh_literals(parent: nodes.Node) -> None:
    for name, child in parent.iter_fields():
        if isinstance(child, nodes.Node):
            _weigh_literals(child)
            setattr(parent, name, _scaled(child))
        elif isinstance(child, list):
            for item in child:
                if isinstance(item, nodes.Node):
                    _weigh_literals(item)
            child[:] = [_scaled(item) for item in child]


def _scaled(node: Any) -> Any:
    if isinstance(node, nodes.Concat):
        return _through("_concat", nodes.List(node.nodes, lineno=node.lineno))
    if isinstance(node, nodes.Tuple) and node.ctx != "load":
        return node
    if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict):
        return _through("_made", node)
    return node


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


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
def _finalize(context: BudgetContext, value: Any) -> str:
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
def _escape(context: BudgetContext, value: Any) -> str:
    text = str(escape(_text(context, value)))
    context.budget.charge(len(text))
    return text


@pass_context
def _replace(context: BudgetContext, value: Any, old: str, new: str, count: int = -1) -> str:
    text = _text(context, value)
    _check_str_method(context.budget, text, "replace", (old, new, count))
    return text.replace(old, new, -1 if count is None else count)


@pass_context
def _trim(context: BudgetContext, value: Any, chars: str | None = None) -> str:
    text = _text(context, value)
    _check_str_method(context.budget, text, "strip", (chars,))
    return text.strip(chars)


@pass_context
def _join(context: BudgetContext, value: Any, d: str = "", attribute: Any = None) -> str:
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


def _limited_range(context: BudgetContext, *args: int) -> range:
    items = range(*args)
    context.budget.count_range(items)
    return items


def _check_str_method(budget: Budget, text: str, name: str, args: tuple[Any, ...]) -> None:
    """Charge what a method of a string is about to make, before it makes it."""
    if name == "replace" and len(args) >= 2:
        old, new = args[:2]
        if isinstance(old, str) and isinstance(new, str):
            found = text.count(old)
            budget.charge(len(text) + found * max(len(new) - len(old), 0))
    elif name in ("strip", "lstrip", "rstrip") and len(args[0] or "" if args else "") > _MAX_STRIP:
        raise SecurityError(f"more than {_MAX_STRIP} characters to strip")


_OPERATORS = MappingProxyType(
    {"+": operator.add, "*": operator.mul, "**": operator.pow, "%": operator.mod}
)
_OWN_FILTERS = MappingProxyType(
    {
        "_concat": _concat,
        "_made": _made,
        "_turns": _turns,
        "e": _escape,
        "escape": _escape,
        "indent": _indent,
        "join": _join,
        "replace": _replace,
        "safe": _string,
        "string": _string,
        "tojson": _tojson,
        "trim": _trim,
    }
)

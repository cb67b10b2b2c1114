"""Jinja for templates that nobody vouches for.

Owns what a template may name, call and use up. It must not know messages or models. Three fences
stand one behind the other: Jinja's immutable sandbox; lists of the only filters, functions and
methods that exist here; and a budget, counted wherever a template can loop, call, or make a larger
value out of smaller ones. Whatever is not on a list does not exist, so a new Jinja brings no new
way out.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from pagemill.text.budget import Budget, BudgetContext
from pagemill.text.filters import (
    OPERATORS,
    check_str_method,
    finalize,
    format_text,
    join,
    limited_range,
    sandbox_filters,
)

_METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: frozenset(
            (
                *(
                    "capitalize",
                    "count",
                    "endswith",
                    "find",
                    "format",
                    "index",
                    "isalnum",
                    "isalpha",
                ),
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
            finalize=finalize,
            # Nothing is computed at load, where no budget is counted.
            optimized=False,
        )
        known: dict[str, Callable[..., Any]] = {"dict": dict, "namespace": Namespace}
        self.globals = {**known, **functions, "range": limited_range}
        self._functions = tuple(self.globals.values())
        self.filters = sandbox_filters()

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

    def wrap_str_format(self, value: Any) -> None:
        """No wrapper of Jinja's around `str.format`: `call` has its own, which counts."""

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
                return join(__context, args[0], owner)
            if __obj.__name__ == "format":
                return format_text(__context, owner, args, kwargs)
            check_str_method(budget, owner, __obj.__name__, args)
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
        result = OPERATORS[operator](left, right)
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

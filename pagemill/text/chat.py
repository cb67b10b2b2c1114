"""Messages to a prompt: the model's own chat template, in a sandbox, and the ids that come of it.

Owns the variables that templates see and the way from a rendered text to ids. It must not know
HTTP, engines or files.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

import jinja2

from pagemill.errors import BadModelFile, InvalidRequest
from pagemill.text.budget import Budget, BudgetExceeded, TemplateLimits
from pagemill.text.disguise import Disguise
from pagemill.text.messages import ROLES, Habits, Message, strings, to_mapping
from pagemill.text.sandbox import TemplateEnvironment
from pagemill.text.tokenizer import Tokenizer
from pagemill.text.trials import find_frame, find_habits, find_part_roles

MAX_SOURCE_CHARS = 1 << 18
MAX_DATE_FORMAT = 64

# What a request's extra values may not name: our own variables, functions and parameters.
RESERVED = frozenset(
    (
        *("add_generation_prompt", "bos_token", "chat_template", "continue_final", "eos_token"),
        *("continue_final_message", "extra", "messages", "template", "tokenize", "tokenizer"),
        *("dict", "namespace", "raise_exception", "range", "strftime_now", "tools"),
    )
)
# For models without a template: ChatML where the vocabulary has its tokens, else lines of text.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_TRIAL_LIMITS = TemplateLimits(steps=100_000, seconds=0.2)
_SYSTEM = ("system", "developer")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# Whatever Python raises when a template treats a value as something it is not.
_WRONG_VALUES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_BROKEN = (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError, ValueError)


class ChatTemplate:
    """A compiled template. Safe to share between threads. BadModelFile if it is broken.

    `tool_use` is the second template of models that bring one for conversations with tools;
    `other_tokens` are variables such as pad_token. Conversations begin with `opening`, but for its
    system message where they have their own.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str,
        eos_token: str,
        tool_use: str = "",
        other_tokens: Mapping[str, str] = _NOTHING,
        limits: TemplateLimits | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.source = source
        self.tool_use = tool_use
        self.opening: tuple[Message, ...] = ()
        self._limits = limits or TemplateLimits()
        self._now = now
        self._tokens = {**other_tokens, "bos_token": bos_token, "eos_token": eos_token}
        self._environment = TemplateEnvironment(
            {"raise_exception": _raise_exception, "strftime_now": self._strftime_now}
        )
        self._plain = self._compile(source)
        self._with_tools = self._compile(tool_use) if tool_use else self._plain

    def _compile(self, source: str) -> jinja2.Template:
        if len(source) > MAX_SOURCE_CHARS:
            size = len(source)
            raise BadModelFile(
                f"chat template: {size} characters long, the limit is {MAX_SOURCE_CHARS}"
            )
        try:
            return self._environment.load(source)
        except _BROKEN as error:
            line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            reason = str(error)[:200].partition("\n")[0] or type(error).__name__
            raise BadModelFile(f"chat template: {line}{reason}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] = _NOTHING,
    ) -> str:
        """The prompt as text. InvalidRequest: the template refuses these messages, or cannot be
        done with them in its budget, or `extra` names a variable of ours.
        """
        return self.render_turns(self.turns(messages), add_generation_prompt, tools, extra)

    def turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as this template takes them. InvalidRequest for what it must not get."""
        if not messages:
            raise InvalidRequest("there must be at least one message", param="messages")
        for number, message in enumerate(messages):
            # Templates put roles between the characters of special tokens, so they cannot be free
            # text.
            if message.role not in ROLES:
                raise InvalidRequest(
                    f"role {message.role[:64]!a} is not one of {', '.join(ROLES)}",
                    param=f"messages.{number}.role",
                )
            if message.has_media and message.role not in self.part_roles:
                raise InvalidRequest(
                    "this model's chat template takes text only", param=f"messages.{number}.content"
                )
        messages = self._opened(messages)
        habits = self.habits if any(message.tool_calls for message in messages) else Habits()
        parts = any(isinstance(message.content, tuple) for message in messages)
        roles = self.part_roles if parts else ()
        return [to_mapping(message, habits, message.role in roles) for message in messages]

    def _opened(self, messages: Sequence[Message]) -> Sequence[Message]:
        """With the opening. A system message of the conversation's own stays the first."""
        if not self.opening or messages[0].role not in _SYSTEM:
            return [*self.opening, *messages]
        others = [message for message in self.opening if message.role not in _SYSTEM]
        return [messages[0], *others, *messages[1:]]

    def render_turns(
        self,
        turns: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] = _NOTHING,
    ) -> str:
        """`render` for what `turns` made."""
        for name in extra:
            if name in RESERVED or name in self._tokens or name.startswith("_"):
                raise InvalidRequest(
                    f"{name[:64]!a} is set by the server", param=f"chat_template_kwargs.{name[:64]}"
                )
        variables = {**extra, "add_generation_prompt": add_generation_prompt}
        return self._run(turns, tools, variables, self._limits)

    def _run(
        self,
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        more: Mapping[str, Any],
        limits: TemplateLimits,
    ) -> str:
        template = self._with_tools if tools else self._plain
        given = {"messages": turns, "tools": tools or None}
        variables = {"documents": None, **more, **self._tokens, **given}
        size = sum(map(len, strings([turns, tools, dict(more)])))
        try:
            return self._environment.run(template, variables, Budget(limits, size))
        except BudgetExceeded:
            raise
        except jinja2.exceptions.SecurityError as error:
            raise BadModelFile(f"chat template: {str(error)[:200]}") from None
        except (jinja2.TemplateError, MemoryError, *_WRONG_VALUES) as error:
            reason = str(error)[:500] or type(error).__name__
            raise InvalidRequest(f"chat template: {reason}", param="messages") from None

    @cached_property
    def habits(self) -> Habits:
        """What this template expects of a turn with tool calls."""
        return find_habits(self._try)

    @cached_property
    def part_roles(self) -> frozenset[str]:
        """The roles whose content this template takes as a list of parts."""
        return find_part_roles(self._try, self.habits)

    @cached_property
    def frame(self) -> str:
        """What this template makes of turns that are not an assistant's."""
        return find_frame(self._try)

    def _try(
        self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> str:
        try:
            return self._run(turns, tools, {"add_generation_prompt": False}, _TRIAL_LIMITS)
        except (BadModelFile, InvalidRequest):
            return ""

    def _strftime_now(self, form: str) -> str:
        # Digits in a format set widths of any size.
        if len(form) > MAX_DATE_FORMAT or any(char.isdigit() for char in form):
            raise jinja2.TemplateError(f"not a date format: {form[:MAX_DATE_FORMAT]!r}")
        return self._now().strftime(form)


def fallback_template(tokenizer: Tokenizer) -> ChatTemplate:
    """For a model that brings no template: ChatML if its tokens exist, else "role: content"."""
    known = tokenizer.special_tokens
    bos = ""
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        bos = tokenizer.token_bytes(tokenizer.bos_id).decode("utf-8", "replace")
    source = CHATML if {"<|im_start|>", "<|im_end|>"} <= known.keys() else PLAIN
    return ChatTemplate(source, bos_token=bos, eos_token="")


def chat_prompt(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    continue_final: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    extra: Mapping[str, Any] = _NOTHING,
) -> list[int]:
    """Ids of a conversation. What is typed makes no special ids, see `disguise`; the template does.
    `continue_final` ends the prompt inside the last message.
    """
    template = template or fallback_template(tokenizer)
    turns = template.turns(messages)
    texts = strings([template.source, template.tool_use, turns, tools, dict(extra)])
    disguise = Disguise(tokenizer, list(texts), template.frame)
    turns = [disguise.put_on_turn(turn) for turn in turns]
    text = template.render_turns(
        turns,
        add_generation_prompt and not continue_final,
        disguise.put_on_all(tools),
        disguise.put_on_all(dict(extra)),
    )
    if continue_final:
        text = _cut_after(text, turns[-1]["content"])
    return tokenizer.encode(text, special=True, between=disguise.take_off)


def _cut_after(text: str, last: Any) -> str:
    """The rendered text up to the end of the last message's content."""
    for content in (last, last.strip()) if isinstance(last, str) else ():
        start = text.rfind(content)
        if start >= 0:
            return text[: start + len(content)]
    raise InvalidRequest(
        "the chat template changes the last message, so it cannot be continued", param="messages"
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)

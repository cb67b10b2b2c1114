"""Messages to a prompt: the model's own chat template, in a sandbox, and the ids that come of it.

Owns the variables that templates see and the rule that what users type is text: a special token
spelled out in a message never becomes one. It must not know HTTP, engines or files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NoReturn

import jinja2

from pagemill.errors import BadModelFile, InvalidRequest
from pagemill.text.budget import Budget, BudgetExceeded, TemplateLimits
from pagemill.text.sandbox import TemplateEnvironment
from pagemill.text.tokenizer import Tokenizer

MAX_SOURCE_CHARS = 1 << 18
MAX_NESTING = 32  # of lists and mappings in tools and extra values
MAX_DATE_FORMAT = 64
ROLES = ("assistant", "developer", "function", "system", "tool", "user")

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
_NO_EXTRA: Mapping[str, Any] = MappingProxyType({})
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
# Whatever Python raises when a template treats a value as something it is not.
_WRONG_VALUES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    name: str | None = None


class ChatTemplate:
    """A compiled template. Safe to share between threads. BadModelFile if it is broken."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str,
        eos_token: str,
        limits: TemplateLimits | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            size = len(source)
            raise BadModelFile(
                f"chat template: {size} characters long, the limit is {MAX_SOURCE_CHARS}"
            )
        self.source = source
        self._limits = limits or TemplateLimits()
        self._now = now
        self._constants = {"bos_token": bos_token, "eos_token": eos_token}
        self._environment = TemplateEnvironment(
            {"raise_exception": _raise_exception, "strftime_now": self._strftime_now}
        )
        try:
            self._template = self._environment.load(source)
        except (
            jinja2.TemplateError,
            SyntaxError,
            RecursionError,
            MemoryError,
            ValueError,
        ) as error:
            reason = str(error)[:200] or type(error).__name__
            raise BadModelFile(f"chat template: {reason}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] = _NO_EXTRA,
    ) -> str:
        """The prompt as text. InvalidRequest: the template refuses these messages, or cannot be
        done with them in its budget, or `extra` names a variable of ours.
        """
        texts = _check(messages, tools, extra)
        turns = [_as_mapping(message) for message in messages]
        variables = {
            **extra,
            **self._constants,
            "messages": turns,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        budget = Budget(self._limits, sum(map(len, texts)))
        try:
            return self._environment.run(self._template, variables, budget)
        except BudgetExceeded:
            raise
        except jinja2.exceptions.SecurityError as error:
            raise BadModelFile(f"chat template: {str(error)[:200]}") from None
        except (jinja2.TemplateError, MemoryError, *_WRONG_VALUES) as error:
            reason = str(error)[:500] or type(error).__name__
            raise InvalidRequest(f"chat template: {reason}", param="messages") from None

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
    extra: Mapping[str, Any] = _NO_EXTRA,
) -> list[int]:
    """Ids of a conversation. Special ids come from the template alone, never from what is in
    messages, tools or extra values. `continue_final` ends the prompt inside the last message.
    """
    template = template or fallback_template(tokenizer)
    texts = _check(messages, tools, extra)
    disguise = _Disguise(tokenizer, [template.source, *texts])
    turns = [
        Message(m.role, disguise.put_on(m.content), m.name and disguise.put_on(m.name))
        for m in messages
    ]
    text = template.render(
        turns,
        add_generation_prompt=add_generation_prompt and not continue_final,
        tools=disguise.put_on_all(tools),
        extra=disguise.put_on_all(dict(extra)),
    )
    if continue_final:
        text = _cut_after(text, turns)
    ids: list[int] = []
    for piece, token_id in tokenizer.split_special(text):
        ids += [token_id] if token_id is not None else tokenizer.encode(disguise.take_off(piece))
    return ids


class _Disguise:
    """Hides special tokens that were typed, while the template works and special tokens are found.

    Each stands as one character of a private-use plane. The same characters close off a text whose
    end or beginning could grow into a special token together with what the template puts next to
    it. Text without either, nearly all text, is left as it is.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        """`texts` are all that goes into the rendering: no mask is a character of theirs."""
        self._tokenizer = tokenizer
        self._texts = texts
        self._free: Iterator[str] | None = None
        self._masks: dict[str, str] = {}
        self._real: dict[int, str] = {}

    def put_on(self, text: str) -> str:
        """The text as the template may see it."""
        text = self._hide_whole(text)
        begins, ends = self._tokenizer.special_edges
        longest = max(map(len, self._tokenizer.special_tokens), default=0)
        lengths = range(1, min(len(text) + 1, longest))
        if any(text[-length:] in begins for length in lengths):
            text += self._mask("")
        if any(text[:length] in ends for length in lengths):
            text = self._mask("") + text
        return text

    def _hide_whole(self, text: str) -> str:
        pieces = self._tokenizer.split_special(text)
        return "".join([p if i is None else self._mask(p) for p, i in pieces])

    def _put_on_key(self, key: str) -> str:
        # Templates look up words by name: these keep their ends.
        return self._hide_whole(key) if key.isidentifier() else self.put_on(key)

    def put_on_all(self, value: Any) -> Any:
        """The same for every string in a JSON value."""
        if isinstance(value, str):
            return self.put_on(value)
        if isinstance(value, Mapping):
            return {self._put_on_key(key): self.put_on_all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.put_on_all(item) for item in value]
        return value

    def take_off(self, text: str) -> str:
        """What was typed."""
        return text.translate(self._real) if self._real else text

    def _mask(self, text: str) -> str:
        if text not in self._masks:
            if self._free is None:
                taken: set[str] = set().union(*self._texts)
                self._free = (char for char in map(chr, _PRIVATE_USE) if char not in taken)
            mask = next(self._free, "")
            if not mask:
                raise InvalidRequest("every private-use character is taken", param="messages")
            self._masks[text] = mask
            self._real[ord(mask)] = text
        return self._masks[text]


def _cut_after(text: str, messages: Sequence[Message]) -> str:
    """The rendered text up to the end of the last message's content."""
    for content in (messages[-1].content, messages[-1].content.strip()):
        start = text.rfind(content)
        if start >= 0:
            return text[: start + len(content)]
    raise InvalidRequest(
        "the chat template changes the last message, so it cannot be continued", param="messages"
    )


def _check(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    extra: Mapping[str, Any],
) -> list[str]:
    """Refuse what templates must not get. All strings of what they get."""
    if not messages:
        raise InvalidRequest("there must be at least one message", param="messages")
    for number, message in enumerate(messages):
        # Templates put roles between the characters of special tokens, so they cannot be free text.
        if message.role not in ROLES:
            raise InvalidRequest(
                f"role {message.role[:64]!a} is not one of {', '.join(ROLES)}",
                param=f"messages.{number}.role",
            )
    for name in extra:
        if name in RESERVED or name.startswith("_"):
            raise InvalidRequest(
                f"{name[:64]!a} is set by the server", param=f"chat_template_kwargs.{name[:64]}"
            )
    turns = [_as_mapping(message) for message in messages]
    return list(_strings([turns, tools, dict(extra)]))


def _as_mapping(message: Message) -> dict[str, str]:
    turn = {"role": message.role, "content": message.content}
    return turn if message.name is None else {**turn, "name": message.name}


def _strings(value: Any, level: int = 0) -> Iterator[str]:
    """Every string in a JSON value. InvalidRequest where it is nested too deep."""
    if level > MAX_NESTING:
        raise InvalidRequest(f"values are nested deeper than {MAX_NESTING} levels", param="tools")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _strings(item, level + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, level + 1)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)

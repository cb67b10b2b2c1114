"""Where chat templates come from: a setting, a GGUF file, a model folder; and their special tokens.

Owns the keys and file names under which they are kept. It must not know what a template does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagemill.errors import BadModelFile, ConfigError
from pagemill.small_files import read_json, read_text
from pagemill.text.chat import MAX_SOURCE_CHARS, ChatTemplate

TOKENIZER_CONFIG = "tokenizer_config.json"
_TEMPLATE_FILE = "chat_template.jinja"
_TOOL_USE_FILE = "additional_chat_templates/tool_use.jinja"
_OLD_TEMPLATE_FILE = "chat_template.json"
_MAX_BYTES = 4 * MAX_SOURCE_CHARS  # of a file with as many characters
_MARKS = ("{{", "{%", "{#")  # what is a template, and not the name of a file
_MAX_TOKENS = 256  # with a name
_MAX_TOKEN_CHARS = 1024
# Names in templates, and in a GGUF file ("seperator" is how it is spelled there).
_GGUF_TOKENS = (
    *(("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown")),
    *(("sep_token", "seperator"), ("pad_token", "padding"), ("mask_token", "mask")),
)


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """A template before it is compiled. `tool_use` is the model's second one, if it has two."""

    text: str
    origin: str  # for people: the file it is in
    tool_use: str = ""

    def compile(self, tokens: Mapping[str, str]) -> ChatTemplate:
        """The template, seeing the special tokens `tokens`. BadModelFile if it is broken."""
        others = {**tokens}
        bos, eos = others.pop("bos_token", ""), others.pop("eos_token", "")
        return ChatTemplate(
            self.text, bos_token=bos, eos_token=eos, tool_use=self.tool_use, other_tokens=others
        )


def template_of_setting(value: str) -> TemplateSource | None:
    """The template that the setting `chat_template` names or is; None if it is not set.

    ConfigError: the file cannot be read, or is no template; with the line where there is one.
    """
    if not value.strip():
        return None
    is_text = any(mark in value for mark in _MARKS)
    where = "--chat-template" if is_text else f"--chat-template {value}"
    try:
        text = value if is_text else read_text(Path(value).expanduser(), _MAX_BYTES)
        source = TemplateSource(text, where)
        source.compile({})
    except BadModelFile as error:
        reason = error.message.removeprefix("chat template: ")
        raise ConfigError(f"{where}: {reason}", param="chat_template") from None
    return source


def template_of_gguf(metadata: Mapping[str, Any]) -> TemplateSource | None:
    """The template in a GGUF file's metadata; None if it brings none."""
    key = "tokenizer.chat_template"
    text, tool_use = (_text(metadata, name) for name in (key, f"{key}.tool_use"))
    return TemplateSource(text, "the model file", tool_use) if text.strip() else None


def template_of_folder(folder: Path) -> TemplateSource | None:
    """The template of a model folder; None if it brings none.

    A file of its own counts more than the tokenizer's configuration, as where it was written.
    """
    if (folder / _TEMPLATE_FILE).exists():
        more = folder / _TOOL_USE_FILE
        tool_use = read_text(more, _MAX_BYTES) if more.exists() else ""
        return TemplateSource(
            read_text(folder / _TEMPLATE_FILE, _MAX_BYTES), _TEMPLATE_FILE, tool_use
        )
    for name in (TOKENIZER_CONFIG, _OLD_TEMPLATE_FILE):
        if (folder / name).exists():
            named = _named_templates(read_json(folder / name).get("chat_template"), name)
            if named.get("default", "").strip():
                return TemplateSource(named["default"], name, named.get("tool_use", ""))
    return None


def _named_templates(value: Any, file: str) -> Mapping[str, str]:
    """Templates by name: one text, or a list of {name, template}."""
    wrong = BadModelFile(f"{file}: chat_template must be a text, or a list of names and templates")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if not isinstance(value, list):
        raise wrong
    named: dict[str, str] = {}
    for item in value:
        name, text = (item.get("name"), item.get("template")) if isinstance(item, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(text, str):
            raise wrong
        named[name] = text
    return named


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key, "")
    if not isinstance(value, str):
        raise BadModelFile(f"key {key!r} must be a string, not {type(value).__name__}")
    return value


def tokens_of_gguf(metadata: Mapping[str, Any]) -> Mapping[str, str]:
    """Special tokens by the name that templates know them under: "bos_token" and others."""
    texts = metadata.get("tokenizer.ggml.tokens", ())
    found = {}
    for name, kind in _GGUF_TOKENS:
        token_id = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if isinstance(token_id, int) and 0 <= token_id < len(texts):
            found[name] = texts[token_id]
    return found


def tokens_of_folder(folder: Path) -> Mapping[str, str]:
    """The same for a model folder, with the names that only this model has."""
    found: dict[str, str] = {}
    for file in (folder / TOKENIZER_CONFIG, folder / "special_tokens_map.json"):
        if file.exists():
            found = {**dict(_named_tokens(read_json(file))), **found}
    if len(found) > _MAX_TOKENS:
        raise BadModelFile(f"{TOKENIZER_CONFIG}: {len(found)} special tokens, not {_MAX_TOKENS}")
    return found


def _named_tokens(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    more = config.get("extra_special_tokens")
    for name, value in {**(more if isinstance(more, dict) else {}), **config}.items():
        text = value.get("content") if isinstance(value, dict) else value
        is_token = name.endswith("_token") and name.isidentifier() and not name.startswith("_")
        if is_token and isinstance(text, str) and len(text) <= _MAX_TOKEN_CHARS:
            yield name, text

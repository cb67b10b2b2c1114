"""`pagemill show`: what a model is, and what counts where a request says nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pagemill.cli import text
from pagemill.cli.models import required
from pagemill.types import KNOB_RANGES, GenerationDefaults, ModelCard, SamplingParams

if TYPE_CHECKING:
    from pagemill.config import Settings
    from pagemill.hub.store import StoredModel
    from pagemill.text.model_text import ModelText
    from pagemill.text.templates import TemplateSource

SHOWN_ITEMS = 3  # of a metadata list; vocabularies have tens of thousands
SHOWN_TOKENS = 12
SHOWN_CHARS = 200


def show(name: str, settings: Settings, what: str) -> str:
    """The answer of `show`: "card", "template", "license" or "metadata"."""
    from pagemill.config import EngineConfig
    from pagemill.runtime import counting, given_template, open_as_asked
    from pagemill.text.model_text import read_model_text

    stored = required(name, settings)
    as_stored = EngineConfig(backend=settings.engine.backend)
    checkpoint = open_as_asked(as_stored, stored.path)
    card, metadata = checkpoint.card, checkpoint.metadata
    brought = read_model_text(stored.path, metadata, card.vocab_size)
    if what == "license":
        added = brought.overlay.license if brought.overlay else ""
        return added or str(metadata.get("general.license") or "The file states no licence.")
    template = given_template(settings.text) or brought.template
    if what == "template":
        return template.text if template else "This model has no template."
    defaults = counting(settings.text, brought.defaults)
    writes = [
        template_lines(template, brought),
        "",
        defaults_lines(defaults, brought.origin),
    ]
    made = created_lines(brought)
    parts = [
        "\n".join([card_lines(card, stored), *made, *([] if card.pooling else writes)]),
        *([metadata_lines(metadata)] if what == "metadata" else []),
    ]
    return "\n\n".join(parts)


def card_lines(card: ModelCard, stored: StoredModel) -> str:
    """The network and its file."""
    rows = [
        ("architecture", text.network(card)),
        ("parameters", text.count(card.parameters)),
        ("context", f"{card.context_length} tokens"),
        ("gives", text.gives(card)),
        ("quantization", card.quantization),
        ("size", text.size(stored.size)),
        ("layers", f"{card.layers} of width {card.hidden_size}"),
        ("heads", f"{card.heads} for queries, {card.kv_heads} for keys and values"),
        ("vocabulary", f"{card.vocab_size} tokens"),
        ("licence", card.license or "not stated"),
        ("source", stored.source or "-"),
        ("file", str(stored.path)),
    ]
    return f"{stored.name}\n{_rows(rows)}"


def template_lines(template: TemplateSource | None, brought: ModelText) -> str:
    """The chat template's size and origin, and the tokens that it may name."""
    shown = "none: conversations are laid out as ChatML or as lines; --chat-template sets one"
    if template is not None:
        shown = f"{len(template.text)} characters, from {template.origin}"
        if template.tool_use:
            shown += f"; with tools another of {len(template.tool_use)}"
    tokens = [
        f"{name.removesuffix('_token')} {token!r}" for name, token in sorted(brought.tokens.items())
    ]
    more = f", ... {len(tokens)} in all" if len(tokens) > SHOWN_TOKENS else ""
    named = ", ".join(tokens[:SHOWN_TOKENS]) + more
    return _rows([("template", shown), ("special tokens", named or "none are named")])


def created_lines(brought: ModelText) -> list[str]:
    """What a model that was created here adds to its base."""
    made = brought.overlay
    if made is None:
        return []
    rows = [("created from", made.base)]
    if made.system:
        rows.append(("system message", _brief(made.system)))
    if made.messages:
        rows.append(("begins with", f"{len(made.messages)} messages"))
    if made.license:
        rows.append(("its licence", _brief(made.license)))
    return [_rows(rows)]


def defaults_lines(defaults: GenerationDefaults, origin_of: Callable[[str], str]) -> str:
    """Every knob as it is where a request leaves it out, and who says so."""
    built_in = SamplingParams()
    rows = []
    for name in KNOB_RANGES:
        value, source = getattr(defaults, name), origin_of(name)
        if value is None:
            value, source = getattr(built_in, name, "what the context leaves"), "built-in"
        shown = value if isinstance(value, str) else f"{value:.6g}"
        rows.append((name, f"{shown:<25}{source}"))
    if defaults.stop_ids:
        ids = ", ".join(map(str, defaults.stop_ids[:SHOWN_TOKENS]))
        rows.append(("stop ids", f"{ids:<25}{origin_of('stop_ids')}"))
    return "Where a request says nothing:\n" + _rows(rows, 20)


def metadata_lines(metadata: Mapping[str, Any]) -> str:
    """Every key of the file, long values cut."""
    return _rows([(key, _brief(value)) for key, value in sorted(metadata.items())], 44)


def _rows(rows: list[tuple[str, str]], width: int = 16) -> str:
    return "\n".join(f"  {label:<{width}}{value}" for label, value in rows)


def _brief(value: Any) -> str:
    if isinstance(value, str):
        shown = repr(value[:SHOWN_CHARS])
        return shown + ("..." if len(value) > SHOWN_CHARS else "")
    if hasattr(value, "__len__"):
        items = ", ".join(str(item)[:SHOWN_CHARS] for item in value[:SHOWN_ITEMS])
        return f"[{items}, ... {len(value)} items]" if len(value) > SHOWN_ITEMS else f"[{items}]"
    return str(value)

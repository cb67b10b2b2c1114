"""What the files beside the vocabulary say: tokenizer_config.json and its neighbours.

Owns which tokens begin and end texts, whether prompts get them, and tokens added later.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pagemill.small_files import read_json
from pagemill.text.frames import Frame, begin_and_end
from pagemill.text.vocabulary_files.files import Added, bad, convert

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_NO_LENGTH = 1 << 40  # files without a length of their own say 10**30


@dataclass(frozen=True, slots=True)
class Settings:
    """`named` are tokens by their role; `adds` says for bos and eos whether prompts get them, where
    the files do. `legacy`: SentencePiece's blank also follows special tokens.
    """

    path: Path
    named: dict[str, str]
    adds: dict[str, bool]
    added: tuple[Added, ...] = ()
    extra: frozenset[str] = frozenset()
    end_ids: frozenset[int] = frozenset()
    max_length: int | None = None
    legacy: bool = True

    def id_of(self, role: str, ids: dict[str, int]) -> int | None:
        """The id of the token with a role."""
        return ids.get(self.named[role]) if role in self.named else None

    def frame(
        self,
        bos_id: int | None,
        eos_id: int | None,
        *,
        add_bos: bool = False,
        add_eos: bool = False,
    ) -> Frame:
        """What the flags come to; `add_bos` and `add_eos` count where the files have none."""
        begin = bos_id if self.adds.get("bos", add_bos) else None
        end = eos_id if self.adds.get("eos", add_eos) else None
        return begin_and_end(begin, end, begin, second_type=1)

    def ends(self, num_tokens: int) -> frozenset[int]:
        """The ids that generation_config.json gives, checked."""
        if self.end_ids and max(self.end_ids) >= num_tokens:
            name, largest = "generation_config.json", max(self.end_ids)
            raise bad(
                self.path / name, "eos_token_id", f"is {largest}, there are {num_tokens} tokens"
            )
        return self.end_ids


class _Generation(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


class _Sentences(msgspec.Struct):
    max_seq_length: int | None = None


class _Config(msgspec.Struct):
    """tokenizer_config.json. Tokens are strings or objects with a content."""

    bos_token: Any = None
    eos_token: Any = None
    unk_token: Any = None
    sep_token: Any = None
    pad_token: Any = None
    cls_token: Any = None
    mask_token: Any = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    added_tokens_decoder: dict[str, Added] = {}
    additional_special_tokens: Any = None
    model_max_length: float | None = None
    legacy: bool | None = None


def read_settings(folder: Path) -> Settings:
    """Files that are not there say nothing."""
    path = folder / "tokenizer_config.json"
    config = _read(path, _Config)
    names = _read(folder / "special_tokens_map.json", _Config)
    generation = _read(folder / "generation_config.json", _Generation)
    length = _read(folder / "sentence_bert_config.json", _Sentences).max_seq_length
    ends = generation.eos_token_id
    if length is None and config.model_max_length and config.model_max_length < _NO_LENGTH:
        length = int(config.model_max_length)
    if length is not None and length < 1:
        raise bad(path, "model_max_length", f"is {length}")
    named = {
        role: text
        for role in _ROLES
        if (text := _text(config, names, f"{role}_token", path)) is not None
    }
    return Settings(
        path=folder,
        named=named,
        adds={
            role: flag
            for role, flag in (("bos", config.add_bos_token), ("eos", config.add_eos_token))
            if flag is not None
        },
        added=tuple(_added(config, path)),
        extra=frozenset(_extra(config) | _extra(names)),
        end_ids=frozenset(_ids(ends, folder / "generation_config.json")),
        max_length=length,
        legacy=config.legacy is not False,
    )


def _read(path: Path, kind: type[Any]) -> Any:
    if not path.is_file():
        return kind()
    return convert(read_json(path), kind, path)


def _text(config: _Config, names: _Config, key: str, path: Path) -> str | None:
    value = getattr(config, key)
    if value is None:
        value = getattr(names, key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise bad(path, key, f"is a {type(value).__name__}, not a string")
    return value


def _added(config: _Config, path: Path) -> list[Added]:
    found = []
    for key, token in config.added_tokens_decoder.items():
        if not key.isascii() or not key.isdigit() or len(key) > 9:
            raise bad(path, "added_tokens_decoder", f"{key[:32]!a} is no token id")
        found.append(msgspec.structs.replace(token, id=int(key)))
    return found


def _extra(config: _Config) -> set[str]:
    """Names of further special tokens; anything else in the list is passed over."""
    tokens = config.additional_special_tokens
    return {text for text in tokens if isinstance(text, str)} if isinstance(tokens, list) else set()


def _ids(value: int | list[int] | None, path: Path) -> list[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if ids and min(ids) < 0:
        raise bad(path, "eos_token_id", f"is {min(ids)}")
    return ids

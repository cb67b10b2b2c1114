"""Settings as command-line options, made from their declarations in `pagemill.config`.

A setting is declared once, there; a command that takes settings gets one option for each, named
after it. Values stay text here: `Settings.load` reads flags, variables and files alike.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pagemill.config import Setting, Settings, all_settings
from pagemill.errors import ConfigError

R = TypeVar("R")

PANELS: Mapping[str, str] = {
    "engine": "Engine settings (each is also a variable: PAGEMILL_THREADS, ...)",
    "text": "Template and generation settings",
    "http": "Server settings",
    "hub": "Model store settings",
}
CONFIG = Annotated[
    Path | None, typer.Option("--config", help="A YAML file of settings.", metavar="FILE")
]


def with_settings(*sections: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command one option per setting of `sections`; it receives them read as `settings`.

    The command also gets `--config` and loses its parameter `settings`.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        options = [_option(s) for s in all_settings() if s.section in sections]
        names = [option.name for option in options]

        def called(*args: Any, config: Path | None = None, **kwargs: Any) -> R:
            flags = {name: kwargs.pop(name) for name in names}
            return command(*args, settings=load_settings(flags, config), **kwargs)

        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != "settings"
        ]
        keyword = inspect.Parameter.KEYWORD_ONLY
        file = inspect.Parameter("config", keyword, default=None, annotation=CONFIG)
        signature = inspect.Signature([*own, file, *options])
        called.__signature__ = signature  # type: ignore[attr-defined]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        return called

    return decorate


def _option(setting: Setting) -> inspect.Parameter:
    switch = isinstance(setting.default, bool)
    flag = f"{setting.flag}/--no-{setting.flag[2:]}" if switch else setting.flag
    option = typer.Option(
        flag,
        help=setting.help,
        metavar=None if switch else "VALUE",
        rich_help_panel=PANELS[setting.section],
        show_default=False,
    )
    kind = bool | None if switch else str | None
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, option],
    )


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Flags over PAGEMILL_* variables over the file over defaults.

    The file is `config`, or the one that PAGEMILL_CONFIG names.
    """
    if config is None and os.environ.get("PAGEMILL_CONFIG"):
        config = Path(os.environ["PAGEMILL_CONFIG"])
    return Settings.load(flags, os.environ, {} if config is None else read_file(config))


def read_file(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; ConfigError names the file and the place."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror or error}", param="config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(f"--config {path} is not valid YAML: {words}", param="config") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"--config {path} must hold lines of `setting: value`", param="config")
    return content

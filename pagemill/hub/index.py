"""A Python package index: where a pinned wheel is.

Reads the simple API in its JSON (PEP 691) and HTML (PEP 503) forms.
"""

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from pagemill.errors import DownloadError
from pagemill.hub.catalogue import Wheel
from pagemill.hub.web import Web, public

ACCEPT = (
    "application/vnd.pypi.simple.v1+json, "
    "application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
)
MAX_PAGE_BYTES = 16 << 20


def wheel_url(web: Web, wheel: Wheel) -> str:
    """The address of a pinned wheel, from the page of its package on the index `web` belongs to."""
    project = re.sub(r"[-_.]+", "-", wheel.package).lower()
    page = f"{str(web.base).rstrip('/')}/{project}/"
    url, kind, body = web.document(page, ACCEPT, MAX_PAGE_BYTES)
    rows = _json_rows(url, body) if "json" in kind else _html_rows(body)
    for file, link, sha256 in rows:
        if file != wheel.file:
            continue
        if sha256 and sha256 != wheel.sha256:
            raise DownloadError(
                f"{public(web.base)} offers {wheel.file} with sha256 {sha256[:64]!a}, "
                f"not the pinned {wheel.sha256}"
            )
        return urljoin(url, link)
    raise DownloadError(f"{public(web.base)} does not offer {wheel.file} of {wheel.package}")


def _json_rows(url: str, body: bytes) -> list[tuple[str, str, str]]:
    try:
        page: Any = json.loads(body)
        return [
            (str(row["filename"]), str(row["url"]), str(row.get("hashes", {}).get("sha256", "")))
            for row in page["files"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = urlsplit(url)._replace(query="").geturl()
        raise DownloadError(f"{shown} is not an index page: {error}") from error


def _html_rows(body: bytes) -> list[tuple[str, str, str]]:
    links = _Links()
    links.feed(body.decode("utf-8", "replace"))
    rows = []
    for href in links.found:
        link, fragment = urldefrag(href)
        file = unquote(link.partition("?")[0].rpartition("/")[2])
        rows.append((file, link, fragment.removeprefix("sha256=") if "sha256=" in fragment else ""))
    return rows


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.found.append(href)

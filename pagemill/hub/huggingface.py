"""Files of Hugging Face repositories: which one a name means, and its pinned address and hash.

The revision is turned into a commit first; every later request names that commit, so all answers
are about the same files. Only GGUF files in one piece are offered.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pagemill.errors import DownloadError, InvalidRequest, NotFound, Unsupported
from pagemill.hub.store import checked_hex
from pagemill.hub.web import HttpStatus, Web

MAX_LISTING_BYTES = 16 << 20
# With no quantization asked for: the first that the repository has. Speed and quality in balance.
PREFERRED = ("Q4_K_M", "Q4_0", "Q4_1", "Q5_K_M", "Q8_0", "Q4_K_S", "BF16", "F16")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository at one commit."""

    repo: str
    commit: str
    file: str
    sha256: str
    size: int

    def url(self, web: Web) -> str:
        """Where its bytes are."""
        return f"{str(web.base).rstrip('/')}/{self.repo}/resolve/{self.commit}/{quote(self.file)}"


def find_file(
    web: Web, repo: str, *, revision: str = "main", tag: str = "", file: str = ""
) -> HubFile:
    """The file called `file`, or the one of quantization `tag`, or (both empty) the preferred one.

    Raises NotFound with the choices, Unsupported for split files, DownloadError for gated
    repositories (it names the model page and HF_TOKEN) and answers that make no sense.
    """
    listing = _listing(web, repo, revision)
    try:
        commit = str(listing["sha"])
        if not _COMMIT.fullmatch(commit):
            raise ValueError("no commit")
        rows = {str(row["rfilename"]): row for row in listing["siblings"]}
        chosen = file if file in rows else _choose(repo, rows, tag, file)
        details = rows[chosen]["lfs"]
        size = details["size"]
        if type(size) is not int or size <= 0 or ".." in chosen.split("/"):
            raise ValueError("bad size or path")
        return HubFile(repo, commit, chosen, checked_hex(str(details["sha256"])), size)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRequest) as error:
        raise DownloadError(f"the file list of hf.co/{repo} makes no sense: {error}") from error


def explain(error: HttpStatus, repo: str) -> DownloadError:
    """What a refusal of the hub means for the user."""
    page = f"https://huggingface.co/{repo}"
    if error.http_status in (401, 403):
        return DownloadError(
            f"{page} does not exist, is private or needs its terms accepted "
            f"(the server answered {error.http_status}): open the page, accept the terms, "
            "and set HF_TOKEN to a token of yours"
        )
    if error.http_status == 404:
        return DownloadError(f"{page} does not exist")
    return error


def _listing(web: Web, repo: str, revision: str) -> dict[str, Any]:
    url = f"{str(web.base).rstrip('/')}/api/models/{repo}/revision/{revision}?blobs=true"
    try:
        _, _, body = web.document(url, "application/json", MAX_LISTING_BYTES)
    except HttpStatus as error:
        raise explain(error, repo) from error
    try:
        listing: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DownloadError(f"the file list of hf.co/{repo} is not JSON") from error
    if not isinstance(listing, dict):
        raise DownloadError(f"the file list of hf.co/{repo} is not an object")
    return listing


def _choose(repo: str, names: Iterable[str], tag: str, file: str) -> str:
    every = sorted(n for n in names if n.lower().endswith(".gguf") and "mmproj" not in n.lower())
    if file or not every:
        raise NotFound(f"hf.co/{repo} has no {'file ' + file if file else 'GGUF file'}")
    for wanted in (tag,) if tag else PREFERRED:
        # Q4_K is not Q4_K_M, and Q4_0 is not IQ4_0.
        pattern = re.compile(rf"(?<![A-Z0-9]){re.escape(wanted)}(?![A-Z0-9_])")
        fitting = [name for name in every if pattern.search(name.upper())]
        whole = [name for name in fitting if not _SPLIT.search(name)]
        if fitting and not whole:
            raise Unsupported(
                f"{fitting[0]} of hf.co/{repo} is split; supported: files in one piece"
            )
        if len(whole) > 1:
            raise NotFound(f"{wanted} is not one file of hf.co/{repo}: {', '.join(whole[:20])}")
        if whole:
            return whole[0]
    if not tag and len(every) == 1:
        return every[0]
    raise NotFound(
        f"hf.co/{repo} has no file of quantization {tag or ' or '.join(PREFERRED)}; "
        f"it has {', '.join(every[:20])}"
    )

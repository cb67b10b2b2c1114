"""Repositories of Hugging Face: what a name means there, and what its refusals mean.

The revision is turned into a commit first; every later request names that commit, so all answers
are about the same files.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pagemill.errors import DownloadError, InvalidRequest, NotFound, PagemillError, Unsupported
from pagemill.hub import parts
from pagemill.hub.checks import checked_hex, checked_path, leaves
from pagemill.hub.ggufs import choose, variants
from pagemill.hub.names import Name
from pagemill.hub.sources import Wanted, check_bytes
from pagemill.hub.web import HttpStatus, Web

MAX_LISTING_BYTES = 16 << 20
MAX_LISTED = 50_000
DEFAULT_REVISION = "main"

_GIT_ID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Repo:
    """The files of a repository at one commit."""

    name: str
    commit: str
    rows: Mapping[str, Mapping[str, Any]]

    def wanted(self, path: str, kept_as: str) -> Wanted:
        """One file as something to fetch. DownloadError when the hub does not name its bytes."""
        if path not in self.rows:
            raise DownloadError(f"hf.co/{self.name} has no file {path} at {self.commit}")
        try:
            row = self.rows[path]
            lfs = row.get("lfs")
            size = lfs["size"] if lfs else row["size"]
            if type(size) is not int or size < (1 if lfs else 0):
                raise ValueError(f"size {size!a}")
            if lfs:
                return Wanted(checked_path(kept_as), size, checked_hex(str(lfs["sha256"])))
            git_id = str(row["blobId"])
            if not _GIT_ID.fullmatch(git_id):
                raise ValueError(f"blobId {git_id[:80]!a}")
            return Wanted(checked_path(kept_as), size, git_id=git_id)
        except (KeyError, TypeError, ValueError, AttributeError, InvalidRequest) as error:
            raise DownloadError(
                f"the file list of hf.co/{self.name} makes no sense at {path[:80]!a}: {error}"
            ) from error

    def url(self, web: Web, path: str) -> str:
        """Where a file's bytes are."""
        return f"{str(web.base).rstrip('/')}/{self.name}/resolve/{self.commit}/{quote(path)}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a repository that a name means; `entry` is the one to open, "" for the folder.

    `paths` are their places in the repository, by the names under which they are kept.
    """

    files: tuple[Wanted, ...]
    entry: str
    paths: Mapping[str, str]


def open_repo(web: Web, repo: str, revision: str = "") -> Repo:
    """List a repository, and pin its revision. Raises what `explain` says, or DownloadError."""
    revision = revision or DEFAULT_REVISION
    base = str(web.base).rstrip("/")
    url = f"{base}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        _, _, body = web.document(url, "application/json", MAX_LISTING_BYTES)
    except HttpStatus as error:
        raise explain(error, repo, revision=revision) from error
    where = f"the file list of hf.co/{repo}"
    try:
        listing: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DownloadError(f"{where} is not JSON") from error
    try:
        commit, siblings = str(listing["sha"]), listing["siblings"]
        if not _GIT_ID.fullmatch(commit):
            raise ValueError("no commit")
        if not isinstance(siblings, list) or len(siblings) > MAX_LISTED:
            raise ValueError(f"it must be a list of at most {MAX_LISTED} files")
        rows: dict[str, Mapping[str, Any]] = {}
        for row in siblings:
            path = row["rfilename"]
            if not isinstance(path, str) or leaves(path) or path in rows:
                raise ValueError(f"path {str(path)[:80]!a} leads out, or is there twice")
            rows[path] = row
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(f"{where} makes no sense: {error}") from error
    return Repo(repo, commit, rows)


def select(web: Web, repo: Repo, name: Name, memory: int) -> Selection:
    """The files that make the model: safetensors, unless the name or its tag says GGUF.

    Raises NotFound with the choices, and Unsupported for weights in other forms.
    """
    prefix = f"{name.folder}/" if name.folder else ""
    inside = {path[len(prefix) :]: path for path in repo.rows if path.startswith(prefix)}
    where = f"hf.co/{repo.name}" + (f"/{name.folder}" if name.folder else "")
    ggufs = [path for path in inside if path.lower().endswith(".gguf")]
    tensors = parts.has_weights(inside)
    if name.tag or (ggufs and ("gguf" in repo.name.partition("/")[2].lower() or not tensors)):
        return _gguf(repo, {path: inside[path] for path in ggufs}, name.tag, memory, where)
    if tensors:
        return _safetensors(web, repo, inside, where)
    if not inside:
        raise NotFound(f"{where} has no files")
    if pickled := parts.pickles(inside):
        raise Unsupported(
            f"{where} has its weights as {pickled[0]!a}, a form that can run code when it is read; "
            "supported: safetensors and GGUF"
        )
    raise NotFound(f"{where} has neither safetensors nor GGUF files")


def explain(error: HttpStatus, repo: str, *, revision: str = "", path: str = "") -> PagemillError:
    """What a refusal of the hub means for the user."""
    page = f"https://huggingface.co/{repo}"
    if error.error_code == "GatedRepo":
        return DownloadError(
            f"{page} is gated: open the page and accept its terms, then set HF_TOKEN to a token "
            f"of the account that did (the server answered {error.http_status})"
        )
    if error.error_code == "RevisionNotFound":
        return NotFound(f"hf.co/{repo} has no revision {revision!a}")
    if error.error_code == "EntryNotFound":
        return NotFound(f"hf.co/{repo} has no file {path!a} at this revision")
    if error.http_status == 401 and "credential" in error.words.lower():
        return DownloadError(f"the hub does not know the token in HF_TOKEN ({error.words})")
    if error.error_code == "RepoNotFound" or error.http_status in (401, 404):
        return NotFound(
            f"{page} does not exist, or is private: then set HF_TOKEN to a token that may read it"
        )
    if error.http_status == 403:
        return DownloadError(
            f"{page} may not be read with the token in HF_TOKEN"
            + (f": {error.words}" if error.words else " (the server answered 403)")
        )
    return error


def _gguf(repo: Repo, paths: Mapping[str, str], tag: str, memory: int, where: str) -> Selection:
    if not paths:
        raise NotFound(f"{where} has no GGUF file, so no quantization {tag} to choose")
    sizes = {path: _size(repo.rows[full]) for path, full in paths.items()}
    found = variants(sizes)
    if not found:
        raise NotFound(f"{where} has no GGUF file of a model")
    chosen = choose(found, tag, memory, where)
    # Kept beside each other under their own names, by which a reader finds the next one.
    kept = {path.rpartition("/")[2]: paths[path] for path in chosen.files}
    files = tuple(repo.wanted(full, path) for path, full in kept.items())
    return Selection(files, files[0].path, kept)


def _safetensors(web: Web, repo: Repo, inside: Mapping[str, str], where: str) -> Selection:
    if parts.CONFIG not in inside:
        raise Unsupported(f"{where} has safetensors but no config.json, which says what they are")
    try:
        index = _index(web, repo, inside) if parts.INDEX in inside else None
        kept = [*parts.small_files(inside), *parts.weight_files(inside, index)]
    except ValueError as error:
        raise DownloadError(f"{where} makes no sense: {error}") from error
    files = tuple(repo.wanted(inside[path], path) for path in dict.fromkeys(kept))
    return Selection(files, "", {path: inside[path] for path in kept})


def _index(web: Web, repo: Repo, inside: Mapping[str, str]) -> frozenset[str]:
    """The shards by their own list, which must be the one of the commit."""
    full = inside[parts.INDEX]
    wanted = repo.wanted(full, parts.INDEX)
    try:
        _, _, body = web.document(repo.url(web, full), "*/*", parts.MAX_INDEX_BYTES)
    except HttpStatus as error:
        raise explain(error, repo.name, path=full) from error
    check_bytes(wanted, body)
    return parts.shards(body)


def _size(row: Mapping[str, Any]) -> int:
    """A size for choosing; `Repo.wanted` is strict about the chosen ones."""
    lfs = row.get("lfs")
    size = lfs.get("size") if isinstance(lfs, dict) else row.get("size")
    return size if type(size) is int else 0

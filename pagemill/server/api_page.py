"""The API's description as a page for people: no scripts, nothing from elsewhere."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Pagemill's API</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
summary { cursor: pointer; padding: .4rem 0 }
code { font: .9em ui-monospace, monospace }
table { border-collapse: collapse; margin: 0 0 1rem 1.2rem }
td { border-top: 1px solid #8884; padding: .2rem 1.5rem .2rem 0; vertical-align: top }
</style>
</head>
<body>
"""


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document whose only bodies are JSON objects."""
    info = document["info"]
    lines = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])}</p>",
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += _operation(method.upper(), path, operation)
    return _HEAD + "\n".join(lines) + "\n</body>\n</html>\n"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<details><summary><code>{method} {escape(path)}</code>"
    yield f"{escape(operation['summary'])}</summary>"
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        yield "<table>"
        for name, field in schema["properties"].items():
            needed = "required" if name in schema["required"] else ""
            cells = (f"<code>{escape(name)}</code>", _kind(field), needed, _said(field))
            yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        yield "</table>"
    yield "</details>"


def _kind(schema: Mapping[str, Any]) -> str:
    """What a field may hold, in words."""
    if "oneOf" in schema:
        return " or ".join(map(_kind, schema["oneOf"]))
    if "enum" in schema:
        return escape(", ".join(schema["enum"]))
    if "items" in schema:
        return f"array of {_kind(schema['items'])}"
    return escape(schema["type"])


def _said(schema: Mapping[str, Any]) -> str:
    """Bounds and description."""
    bounds = [f"{schema[key]:g}" if key in schema else "" for key in ("minimum", "maximum")]
    said = " to ".join(bounds) if all(bounds) else f"at least {bounds[0]}" if bounds[0] else ""
    return escape(". ".join(filter(None, (said, schema.get("description", "")))))

"""Pages that a build of the site makes (mkdocs hooks): the front page, the reference, sources.

The front page is README.md. The reference of verbs and macros is what `gin_configs/runs/` and the
signatures say at that moment, so none of it is written by hand or lies in the repository. A link
to a file outside of docs/ leads to a copy of that file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from detox_jax import cli
from docs_site import reference

ROOT = Path(__file__).resolve().parent.parent
# Files of the root that are pages of the site, and the name of each there.
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "SECURITY.md",
}
_LINK = re.compile(r"(?P<text>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_SOURCES = "sources"


def on_config(config: Any) -> Any:
    """Completes the navigation: pages of docs/ that mkdocs.yml does not name, and the reference."""
    named = set(_named(config.nav))
    docs = Path(config.docs_dir)
    others = sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))
    project = [name for name in _PAGES.values() if name not in named]
    config.nav.append({"More": [name for name in others if name not in named] + project})
    verbs = [{verb: f"reference/verbs/{verb}.md"} for verb in cli.VERBS]
    python = {"Python": "reference/python.md"}
    macros = {"Settings by name": "reference/macros.md"}
    config.nav.append({"Reference": [macros, python, {"Verbs": verbs}]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made here."""
    for source, name in _PAGES.items():
        files.append(File.generated(config, name, content=_moved((ROOT / source).read_text())))
    for verb in cli.VERBS:
        page = f"reference/verbs/{verb}.md"
        files.append(File.generated(config, page, content=reference.verb_page(verb)))
    files.append(File.generated(config, "reference/macros.md", content=reference.macros_page()))
    files.append(File.generated(config, "reference/python.md", content=reference.python_page()))
    for path in sorted(_linked_sources(files)):
        target = f"{_SOURCES}/{path}"
        files.append(File.generated(config, target, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads links to files outside of docs/ to their copies."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        path = _outside(folder, match["target"])
        if path is None:
            return match[0]
        if path in _PAGES:
            target = posixpath.relpath(_PAGES[path], folder or ".")
        else:
            target = posixpath.relpath(f"{_SOURCES}/{path}", folder or ".")
        return f"{match['text']}{target}{match['anchor'] or ''})"

    return _LINK.sub(replaced, markdown)


# --- links ------------------------------------------------------------------------------------


def _named(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from _named(value)
    else:
        for entry in nav:
            yield from _named(entry)


def _moved(markdown: str) -> str:
    """A page of the root as a page of docs/: its links start one folder lower."""

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        moved = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
        return f"{match['text']}{moved}{match['anchor'] or ''})"

    return _LINK.sub(replaced, markdown)


def _outside(folder: str, target: str) -> str | None:
    """The path below the root of what a page of docs/ links to outside of docs/, or None."""
    if "://" in target:
        return None
    path = posixpath.normpath(posixpath.join("docs", folder, target))
    outside = not path.startswith(("docs/", "..")) and (ROOT / path).is_file()
    return path if outside else None


def _linked_sources(files: Files) -> Iterator[str]:
    """Files outside of docs/ that some page links to."""
    for file in files.documentation_pages():
        folder = posixpath.dirname(file.src_uri)
        for match in _LINK.finditer(file.content_string):
            path = _outside(folder, match["target"])
            if path is not None and path not in _PAGES:
                yield path

"""Checks that every link of a built site leads somewhere: `python -m docs_site.links site`.

Pages, anchors and pictures of the site itself are looked for on the disk; of other sites only the
form of the address is checked, since a build asks nothing of the network.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ADDRESSES = {"a": "href", "link": "href", "img": "src", "script": "src"}


class _Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an anchor and an address."""
        attributes = dict(attrs)
        self.anchors.update(filter(None, [attributes.get("id"), attributes.get("name")]))
        if address := attributes.get(_ADDRESSES.get(tag, "")):
            self.links.append(address)


def broken(site: Path) -> Iterator[str]:
    """One line for each link that leads nowhere.

    Args:
      site: the directory of the built site.
    """
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            if trouble := _trouble(site, path, link, pages):
                yield f"{path.relative_to(site)}: {link}: {trouble}"


def _trouble(site: Path, path: Path, link: str, pages: dict[Path, _Page]) -> str | None:
    """What is wrong with a link of the page at `path`, or None."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        good = parts.scheme in ("https", "http", "mailto", "data") and (parts.netloc or parts.path)
        return None if good else "no address"
    root = site if parts.path.startswith("/") else path.parent
    target = (root / unquote(parts.path).lstrip("/")).resolve() if parts.path else path.resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such page"
    by_place = {place.resolve(): page for place, page in pages.items()}
    if target in by_place and unquote(parts.fragment) not in by_place[target].anchors:
        return f"no anchor {parts.fragment!r} there"
    return None


def main() -> int:
    """Prints what is broken; returns the exit status."""
    site = Path(sys.argv[1])
    lines = list(broken(site))
    print(*lines, sep="\n", end="\n" if lines else "")
    number = len(list(site.rglob("*.html")))
    print(f"{site}: {number} pages, {len(lines)} broken links")
    return 1 if lines or not number else 0


if __name__ == "__main__":
    sys.exit(main())

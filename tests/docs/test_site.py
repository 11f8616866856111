"""The documentation builds, its links lead somewhere, and it names every command and every page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


class Links(HTMLParser):
    """What a page links to, and which anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.targets.append(value)
            elif value and name in ("id", "name"):
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason='the site needs: pip install "ldeq[docs]"')
    pytest.importorskip("mkdocstrings", reason='the site needs: pip install "ldeq[docs]"')
    pytest.importorskip("latex2mathml", reason='the site needs: pip install "ldeq[docs]"')
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_link_and_picture_of_the_site_is_there(site: Path) -> None:
    pages = {page: Links(page.read_text()) for page in site.rglob("*.html")}
    assert len(pages) > 25
    for page, links in pages.items():
        if page.name == "404.html":  # its links are those of a server's root
            continue
        for target in links.targets:
            address = urlsplit(target)
            if address.scheme or address.netloc:
                assert address.scheme in ("https", "http", "mailto", "data"), target
                continue
            place = (page.parent / unquote(address.path)).resolve() if address.path else page
            assert place.exists(), f"{page.relative_to(site)} links to {target}"
            if address.fragment and place in pages:
                assert unquote(address.fragment) in pages[place].anchors | {"__"}, f"{page.relative_to(site)} -> {target}"


def test_the_site_loads_nothing_from_another_server(site: Path) -> None:
    """It must be readable offline, and tell nobody who reads it."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://(?!squidfunk)[^\"]*\.(?:js|css|png|woff2?)", text
        )


def test_formulas_are_drawn(site: Path) -> None:
    page = (site / "implicit.html").read_text()
    assert page.count("<math") >= 5
    assert "arithmatex" not in page and "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", page)


def test_every_command_and_option_is_on_the_page_of_commands(site: Path) -> None:
    from ldeq.cli.commands import Command

    page = (site / "commands.html").read_text()
    for command in get_args(Command):
        name = get_args(command)[1].name
        assert f"ldeq {name}" in page, f"docs/commands.md lacks ldeq {name}"
    for option in ("--converge", "--compare", "--detect-every", "--allow-changes", "--baseline"):
        assert f"<code>{option}</code>" in page

"""What mkdocs is told besides mkdocs.yml: pages that lie beside docs/, links to files that are no pages,
formulas, and the options of commands."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/NOTES.md",
    "benchmarks/results/TABLE.md",
    "benchmarks/results/memory.png",
    *(f"ldeq/weights/{name}.md" for name in ("fast-68", "small-68", "small-98", "small-98-drawn")),
)
"""Files outside docs/ that the site holds, under the same path."""

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)

_OPTIONS = re.compile(r"<!-- options: ([\w.]+) -->")

_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds the files beside docs/."""
    for name in BESIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Leads links to where their files are on the site; one to a file that is not there becomes plain text."""
    source = page.file.src_uri
    here = source if source in BESIDE else f"docs/{source}"

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[1]))
        place = target.removeprefix("docs/")
        if files.get_file_from_path(place) is None:
            if (ROOT / target).exists():
                return "]"
            return found[0]  # leads nowhere: the strict build says so
        return f"]({posixpath.relpath(place, posixpath.dirname(source) or '.')}{found[2] or ''})"

    return _OPTIONS.sub(lambda found: _options(found[1]), _LINK.sub(moved, markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Turns formulas into MathML, which browsers draw without a script from another server."""

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[2]), display=display)

    return _FORMULA.sub(drawn, content)


def _default(value: str) -> str:
    """What a reader would type to get the default; nothing if there is none, or if it is made when the command runs."""
    value = re.sub(r"^Path\((.*)\)$", r"\1", value).strip("'\"")
    if value in ("", "None", "False") or "field(" in value:
        return ""
    return "on" if value == "True" else f"`{value}`"


def _options(name: str) -> str:
    """What a command's class in ldeq.cli says of itself, and a table of its options; the same that ``--help`` shows."""
    module, _, kind = name.rpartition(".")
    command = griffe.load(f"ldeq.cli.arguments.{module}", search_paths=[str(ROOT)])[f"{kind}Arguments"]
    rows = []
    for field in command.attributes.values():
        if field.docstring is None and field.value is None:
            continue
        annotation = str(field.annotation)
        # An option of several words, such as the group of settings that `video` and `webcam` share, has a table of its own.
        if "OmitArgPrefixes" in annotation:
            continue
        shown = field.name.upper() if "Positional" in annotation else "--" + field.name.replace("_", "-")
        if annotation == "bool" and str(field.value) == "True":
            shown += f"`, `--no-{field.name.replace('_', '-')}"
        short = re.search(r"aliases=\['(-\w)'\]", annotation)
        default = _default("" if field.value is None else str(field.value))
        text = " ".join(field.docstring.value.split()).replace("``", "`").replace("|", "\\|") if field.docstring else ""
        rows.append(f"| `{shown}`{f', `{short[1]}`' if short else ''} | {default} | {text} |")
    about = re.sub(r"^(Example: )(ldeq .+?)(, then .+)?$", r"\1`\2`\3", command.docstring.value, flags=re.MULTILINE)
    return "\n".join([about, "", "| option | default | |", "| --- | --- | --- |", *rows])

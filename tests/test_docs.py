"""What the documents say must be what the project holds."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_figures_in_the_readme_are_those_of_the_committed_results() -> None:
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "tools" / "update_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text()
    assert module.updated(text) == text, "run: python tools/update_readme.py"
    assert "small-300w" in module.scores() and "RwR" in module.flicker()


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("ldeq/weights/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_files_that_the_architecture_names_exist() -> None:
    """A map of rooms that are gone is worse than none."""
    files = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.*") if not set(path.parts) & {".venv", "build", ".git"}}
    named = set(re.findall(r"[\w/<>]+\.(?:py|cpp|cuh|cu|h)\b", (ROOT / "docs" / "architecture.md").read_text()))
    for name in sorted(n for n in named if "<" not in n):
        assert any(f"/{path}".endswith(f"/{name}") for path in files), name

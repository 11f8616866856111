"""What the documents say must be what the project holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_figures_in_the_documents_are_those_of_the_committed_results() -> None:
    import update_documents

    for document in update_documents.PARTS:
        assert update_documents.updated(document) == (ROOT / document).read_text(), "run: python tools/update_documents.py"
    assert "small-300w" in update_documents.scores() and "RwR" in update_documents.flicker()
    assert "torchdeq" in update_documents.peers()


def test_the_table_of_training_options_is_that_of_the_committed_results() -> None:
    import train_options
    import update_documents  # noqa: F401  # finds the benchmarks

    rows = train_options.results()
    assert len(rows) >= 11 and any(row["option"] == "base" for row in rows)
    assert (train_options.FOLDER / "README.md").read_text() == train_options.table(rows), (
        "run: python benchmarks/train_options.py --table"
    )


def test_the_readme_is_short_and_says_early_what_may_be_used() -> None:
    """What people need first is licence and limits; what is long belongs into docs/."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    for word in ("**Licences.**", "**Limits.**"):
        assert next(i for i, line in enumerate(lines) if word in line) < 26


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

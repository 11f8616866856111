"""What strangers' machines read: workflows, forms, citation, extras."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def project() -> dict[str, Any]:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("path", sorted(GITHUB.glob("workflows/*.yml")), ids=lambda path: path.stem)
def test_a_workflow_has_least_rights_and_calls_targets_that_exist(path: Path) -> None:
    document = read(path)
    assert document["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in document["jobs"].values():
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False
            for words in re.findall(r"^make (.+)$", step.get("run", ""), re.MULTILINE):
                assert {w for w in words.split() if "=" not in w} <= targets
            for file in re.findall(r"python ([\w/.]+\.py)", step.get("run", "")):
                assert (ROOT / file).exists()


def test_every_python_that_the_package_names_is_tested() -> None:
    pythons = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = [c.rsplit(" ", 1)[1] for c in project()["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert pythons == named and f">={named[0]}" == project()["requires-python"]


def test_every_torch_that_the_project_builds_with_is_tested() -> None:
    torches = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["torch"]
    oldest = next(d for d in project()["dependencies"] if d.startswith("torch")).removeprefix("torch>=")
    developed = re.search(r"TORCH\s+:= torch==(\S+)", (ROOT / "Makefile").read_text())
    assert developed is not None
    assert torches == [f"{oldest}.0", developed[1]]


def test_publishing_stores_no_password() -> None:
    text = (GITHUB / "workflows" / "publish.yml").read_text()
    assert "secrets." not in text and "password" not in re.sub(r"#.*", "", text)
    assert read(GITHUB / "workflows" / "publish.yml")["jobs"]["publish"]["permissions"] == {"id-token": "write"}


def test_a_report_of_an_error_asks_for_the_doctor() -> None:
    fields = {field["id"]: field for field in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert "ldeq doctor --json" in fields["doctor"]["attributes"]["label"]
    assert fields["doctor"]["validations"]["required"] is True


def test_the_citation_names_this_version_and_the_paper() -> None:
    from ldeq import __version__

    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Micaelli"


def test_extras_that_messages_and_documents_name_exist() -> None:
    extras = set(project()["optional-dependencies"])
    assert {"video", "train", "export", "docs", "dev"} <= extras
    paths = [*(ROOT / "ldeq").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    for path in paths:
        for names in re.findall(r"(?:ldeq|\.)\[([a-z,]+)\]", path.read_text()):
            assert set(names.split(",")) <= extras, f"{path.name} names the extra {names}"

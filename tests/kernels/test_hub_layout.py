"""The kernels as a repository of Hugging Face's `kernels`: loaded from a folder, without ldeq, they compute the same."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import hub_kernels
import pytest
import torch

from ldeq.ops import softargmax, use_backend


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path / "__init__.py", submodule_search_locations=[str(path)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_module_needs_neither_ldeq_nor_an_absolute_import(tmp_path: Path) -> None:
    """It is loaded from a path outside of any package folder, several versions side by side."""
    built = hub_kernels.write(tmp_path / "hub")
    for path in built.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert all(name.split(".")[0] in {"torch", "triton", "typing", "__future__"} for name in names), (path, names)
    about = json.loads((built / "metadata.json").read_text())
    assert about["version"] == 1 and about["python-depends"] == []
    assert (tmp_path / "hub" / "torch-ext" / "ldeq_kernels" / "__init__.py").read_text() == (built / "__init__.py").read_text()
    with pytest.raises(SystemExit):
        hub_kernels.write(tmp_path / "hub")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.parametrize("older", [False, True])
def test_the_module_computes_what_ldeq_computes(older: bool, tmp_path: Path) -> None:
    built = hub_kernels.write(tmp_path / "hub")
    module = load(built / "ldeq_kernels" if older else built, f"hub_of_kernels_{older}")
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = module.softargmax(logits, 0.4, 1e-4)
    with use_backend("torch"):
        want = softargmax(logits, 0.4, eps=1e-4)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)
    weights = [torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for t in found]
    (ours,) = torch.autograd.grad(sum((w * t).sum() for w, t in zip(weights, found, strict=True)), logits)
    (theirs,) = torch.autograd.grad(sum((w * t).sum() for w, t in zip(weights, want, strict=True)), logits)
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(TypeError, match="float32, float16 or bfloat16"):
        module.softargmax(logits.double())
    with pytest.raises(ValueError, match="shape"):
        module.softargmax(logits[0])


def test_the_program_writes_the_folder(tmp_path: Path) -> None:
    program = Path(hub_kernels.__file__)
    subprocess.run([sys.executable, str(program), str(tmp_path / "hub")], check=True, capture_output=True)
    assert {p.name for p in (tmp_path / "hub").iterdir()} == {"build", "build.toml", "torch-ext", "README.md", "LICENSE"}

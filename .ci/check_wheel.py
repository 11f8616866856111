"""Installs the newest wheel of dist/ into a fresh environment, and runs `ldeq doctor` and the operators' tests there, outside
the source tree.

    python .ci/check_wheel.py torch==2.10.0
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(torch: str) -> None:
    wheel = max((ROOT / "dist").glob("ldeq-*.whl"), key=lambda path: path.stat().st_mtime)
    size = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {size:.2f} MB, with {torch}", flush=True)
    assert "-py3-none-manylinux_" in wheel.name, "the wheel has no native library, or no tag by which other Linuxes take it"
    assert size <= 6, "the wheel is larger than 6 MB"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(f"{folder}/venv", with_pip=True)
        python = f"{folder}/venv/bin/python"
        # No compiler and no source tree: only what the wheel brings.
        environment = {**os.environ, "PYTHONPATH": f"{folder}/support"}

        def run(*command: str) -> None:
            subprocess.run(command, cwd=folder, env=environment, check=True)

        run(python, "-m", "pip", "install", "--quiet", torch, str(wheel), "pytest", "hypothesis", "torch-abi-audit")
        run(python, "-c", "import ldeq, sys; assert 'site-packages' in ldeq.__file__, ldeq.__file__; ldeq.show_config()")
        run(f"{folder}/venv/bin/ldeq", "doctor")
        for name in ("ops", "support"):
            shutil.copytree(ROOT / "tests" / name, f"{folder}/{name}")
        # What test_build.py tests is the source tree.
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "ops", "--ignore=ops/test_build.py")


if __name__ == "__main__":
    main(*sys.argv[1:])

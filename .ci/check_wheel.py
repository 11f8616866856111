"""Installs the newest wheel of dist/ into a fresh environment of the Python that runs this, outside the source tree. There it
runs `ldeq doctor`, the operators' tests, and the commands of docs/first-ten-minutes.md on small pictures.

    python3.12 .ci/check_wheel.py torch==2.10.0
    python3.12 .ci/check_wheel.py torch            # the newest
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))

import first_ten_minutes  # noqa: E402

TESTERS = ("pytest", "hypothesis", "torch-abi-audit; python_version >= '3.11'")


def main(torch: str) -> None:
    wheel = max((ROOT / "dist").glob("ldeq-*.whl"), key=lambda path: path.stat().st_mtime)
    size = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {size:.2f} MB, with {torch} on Python {sys.version.split()[0]}", flush=True)
    assert "-py3-none-manylinux_" in wheel.name, "the wheel has no native library, or no tag by which other Linuxes take it"
    with zipfile.ZipFile(wheel) as parts:
        models = {i.filename: i.compress_size / 1e6 for i in parts.infolist() if i.filename.endswith(".safetensors")}
    print(f"of that, models: {', '.join(f'{name} {mb:.2f} MB' for name, mb in models.items())}", flush=True)
    assert all(mb <= 3 for mb in models.values()), "a model is larger than 3 MB"
    assert size - sum(models.values()) <= 4, "the wheel without its models is larger than 4 MB"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(f"{folder}/venv", with_pip=True)
        python = f"{folder}/venv/bin/python"
        # No compiler and no source tree: only what the wheel brings.
        path = f"{folder}/venv/bin{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PYTHONPATH": f"{folder}/support", "PATH": path}

        def run(*command: str) -> None:
            subprocess.run(command, cwd=folder, env=environment, check=True)

        install = (python, "-m", "pip", "install", "--quiet", "--no-cache-dir")
        run(*install, torch, f"{wheel}[{first_ten_minutes.EXTRAS}]", *TESTERS)
        run(python, "-c", "import ldeq, sys; assert 'site-packages' in ldeq.__file__, ldeq.__file__; ldeq.show_config()")
        run("ldeq", "doctor")
        for name in ("ops", "support"):
            shutil.copytree(ROOT / "tests" / name, f"{folder}/{name}")
        # What test_build.py tests is the source tree.
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "ops", "--ignore=ops/test_build.py")
        work = Path(folder, "work")
        work.mkdir()
        del environment["PYTHONPATH"]

        def command(line: str) -> str:
            print(f"$ {line}", flush=True)
            subprocess.run(line, shell=True, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
            return ""

        # npm is not on every machine that takes a wheel.
        steps = first_ten_minutes.run_steps(command, work, quick=True, skip=() if shutil.which("npm") else ("web",))
        print(f"{len(steps)} steps of the first ten minutes passed")


if __name__ == "__main__":
    main(*sys.argv[1:])

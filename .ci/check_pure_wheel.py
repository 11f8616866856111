"""Builds the wheel without compiled kernels, and runs ldeq from it as on a system that has no compiler, no `resource` and an
OpenCV without windows.

    python .ci/check_pure_wheel.py

It takes torch and the other packages of the Python that runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import sys
import cv2, torch  # torch itself may use what is hidden next

# fcntl stays: Windows has msvcrt in its place, and ldeq asks os.name for it.
for name in ("resource", "termios", "pwd", "grp", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("imshow", "namedWindow", "waitKey", "destroyAllWindows", "startWindowThread"):
    if hasattr(cv2, name):
        delattr(cv2, name)

import ldeq
from ldeq.cli import main

assert "pure" in ldeq.__file__, ldeq.__file__
backends = [name for name, why in ldeq.ops.available_backends().items() if why == "available"]
assert backends == ["torch"], backends
for line in (
    "doctor",
    "data make-faces faces --count 5",
    "predict faces/WFLW_images/train -o found --json found.json --labels found.csv",
    "data make-clips --data synthetic:4#size=128 --part all --easy 1 --hard 0 --frames 12 --out clips",
    "video clips/videos/easy-000.mp4 -o out.mp4 --csv out.csv",
    "score out.csv --report score.html",
    "demo --faces 16 --test-faces 8 --epochs 1 --out demo",
):
    assert main(line.split()) == 0, line
    print("passed: ldeq", line, flush=True)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "no-compiler").mkdir()
        (folder / "work").mkdir()
        pip = [sys.executable, "-m", "pip"]
        without = {**os.environ, "LDEQ_BUILD_CPU": "0", "LDEQ_BUILD_CUDA": "0"}
        build = [*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", name, str(ROOT)]
        subprocess.run(build, env=without, check=True)
        (wheel,) = folder.glob("ldeq-*.whl")
        assert wheel.name.endswith("-py3-none-any.whl"), f"{wheel.name} is not for every system"
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", str(folder / "pure"), str(wheel)], check=True)
        there = {**os.environ, "PATH": str(folder / "no-compiler"), "PYTHONPATH": str(folder / "pure")}
        subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder / "work", env=there, check=True)
        print(f"{wheel.name} runs without compilers, without `resource` and without windows")


if __name__ == "__main__":
    main()

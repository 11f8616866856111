"""Draws docs/images/flicker.webp: a drawn face in motion, each frame alone beside RwR and its filter.

    python tools/readme_animation.py

It runs the two commands that the README shows, and keeps some seconds of what they write. No photo is in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import av
from PIL import Image

TARGET = Path(__file__).parents[1] / "docs" / "images" / "flicker.webp"
FIRST, LAST = 40, 100
"""Frames of the clip: the face turns behind a microphone."""
WIDTH = 560


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:

        def ldeq(*arguments: str) -> None:
            subprocess.run([sys.executable, "-m", "ldeq", *arguments], cwd=folder, check=True)

        source = ["--data", "synthetic:6#seed=4,size=384", "--part", "all"]
        ldeq("data", "make-clips", *source, "--easy", "1", "--hard", "1", "--out", "clips")
        ldeq("video", "clips/videos/hard-000.mp4", "-o", "out.mp4", "--compare")
        with av.open(str(Path(folder) / "out.mp4")) as video:
            frames = [frame.to_image() for frame in video.decode(video=0)][FIRST:LAST]
    height = round(WIDTH * frames[0].height / frames[0].width)
    small = [frame.resize((WIDTH, height), Image.Resampling.LANCZOS) for frame in frames]
    small[0].save(TARGET, save_all=True, append_images=small[1:], duration=40, loop=0, quality=55, method=6)
    print(f"wrote {TARGET}, {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

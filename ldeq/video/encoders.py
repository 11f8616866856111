"""Which encoder writes a video: H.264 wherever this FFmpeg has it, with at most half a second of pictures held back."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .reading import VideoError

# x264's scale of quality, 0 lossless, 51 worst: drawn lines and small text stay sharp.
QUALITY = 18

# Frames between two key frames: a player seeks to them.
KEY_FRAME_EVERY = 125

# Seconds of pictures that an encoder may keep in memory. They are lost if the process is killed.
HELD_BACK = 0.4

# Bits a pixel for encoders without a scale of quality; H.264 looks clean from about 0.1 on.
BITS_PER_PIXEL = 0.2


@dataclass(frozen=True)
class Encoder:
    """One of FFmpeg's encoders.

    Attributes:
        name: as FFmpeg knows it.
        suffixes: of the files that its pictures may go into.
        time_base: of its clock.
        plays: what to tell about where its files play, None for H.264, which plays everywhere.
    """

    name: str
    suffixes: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv")
    time_base: Fraction = Fraction(1, 90_000)
    plays: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    def configure(self, context: Any, width: int, height: int, rate: Fraction, reorder: bool = True) -> None:
        """Sets everything that the encoder's output depends on.

        Args:
            context: an encoder's context that is not open yet.
            width: even, in pixels.
            height: the same.
            rate: average frames a second.
            reorder: whether pictures may be stored in another order than they are shown in, which makes files smaller.
        """
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = self.time_base, rate
        context.gop_size = KEY_FRAME_EVERY
        if self.name == "libx264":
            context.options = {"crf": str(QUALITY), "preset": "veryfast", **_x264_delay(rate)}
            if not reorder:
                context.options = {**context.options, "bf": "0"}
            return
        context.options = dict(self.options)
        context.bit_rate = max(200_000, int(BITS_PER_PIXEL * width * height * min(float(rate), 60.0)))


# In this order. The hardware encoders are tried last among those of H.264: their quality differs from machine to machine.
ENCODERS = (
    Encoder("libx264"),
    Encoder("libopenh264"),
    Encoder("h264_videotoolbox"),
    Encoder("h264_mf"),
    Encoder("h264_nvenc"),
    Encoder("h264_qsv"),
    Encoder("h264_amf"),
    Encoder(
        "libvpx-vp9",
        (".mkv",),  # in MP4 files FFmpeg's muxer gives its last picture no time on the screen
        plays="it plays in browsers, but not in every player",
        options={"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    ),
    # MPEG-4 counts time in at most 16 bits a second.
    Encoder("mpeg4", time_base=Fraction(1, 30_000), plays="it plays in VLC and mpv, but not in browsers", options={"bf": "0"}),
)


def choose_encoder(av: Any, suffix: str, width: int, height: int, rate: Fraction) -> Encoder:
    """The first encoder of `ENCODERS` that this FFmpeg has and that opens: it may have one for hardware that is not there.

    Args:
        av: PyAV.
        suffix: of the file, with its dot, in lower case.
        width: even, in pixels.
        height: the same.
        rate: average frames a second.

    Raises:
        VideoError: if none can be used.
    """
    reasons = []
    for encoder in ENCODERS:
        if suffix not in encoder.suffixes:
            continue
        try:
            context = av.CodecContext.create(encoder.name, "w")
            encoder.configure(context, width, height, rate)
            context.open()
        except ValueError:  # FFmpeg was built without it, or it refuses these settings
            continue
        except av.error.FFmpegError as error:
            reasons.append(f"{encoder.name}: {error.strerror}")
            continue
        return encoder
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise VideoError(
        f"no encoder of this FFmpeg writes {width} x {height} pixels to {suffix} files{why}; install PyAV from PyPI, whose "
        "FFmpeg has libx264: pip install av"
    )


def _x264_delay(rate: Fraction) -> dict[str, str]:
    """Options of x264 with which it holds back at most `HELD_BACK` seconds of pictures."""
    frames = int(HELD_BACK * float(rate))
    if frames < 4:
        return {"tune": "zerolatency"}
    # Threads that share a picture hold none back; threads with a picture each would hold one each.
    return {"bf": "2", "rc-lookahead": str(min(10, frames - 3)), "sliced-threads": "1"}

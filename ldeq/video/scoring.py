"""How good and how steady tracks are, with the truth and without, and a page that shows it."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..data import DataError
from ..files import saved_bytes, write_atomically
from ..metrics import stability
from .evaluation import COLUMNS
from .filters.base import runs
from .track_files import Track

SHORTEST = 8
"""Frames of a stretch with the face; what is shorter is not scored."""

FEWEST_AT_REST = 10
"""Frames at rest below which jitter at rest is not told."""

BLIND: dict[str, str] = {
    "found": "frames with the face, %",
    "jitter": "jitter, % of sqrt(wh)",
    "jitter_face": "jitter in the face's frame, %",
    "jitter_rest": "jitter at rest, %",
    "lag_raw": "lag behind the raw track, frames",
}
"""Figures that need no truth -> their headings."""


def score_track(track: Track, fps: float, truth: Track | None = None, raw: Track | None = None) -> dict[str, float]:
    """Every figure of a track that can be told; the others are NaN.

    Stretches between frames without the face stand for themselves; figures are means over the stretches, weighted by frames.

    Args:
        track: to score.
        fps: frames a second.
        truth: labels of the same landmarks.
        raw: the track before a filter, for the lag without truth and to tell when the face rests.

    Returns:
        The figures of `BLIND`, and of `evaluation.COLUMNS` if there is a truth.

    Raises:
        DataError: for landmarks of another layout, another number of frames, or a track without `SHORTEST` frames in a row.
    """
    for other, what in ((truth, "truth"), (raw, "raw track")):
        if other is not None:
            _check_same(track, other, what)
    pieces: list[dict[str, float]] = []
    lengths: list[int] = []
    good = track.found
    for other in (truth, raw):
        if other is not None:
            good = good & _fitted(other.found, len(good))
    for start, stop in runs(good):
        if stop - start >= SHORTEST:
            own, *others = (None if t is None else t.points[start:stop] for t in (track, truth, raw))
            assert own is not None
            pieces.append(_stretch(own, others[0], others[1], fps, track))
            lengths.append(stop - start)
    if not pieces:
        raise DataError(f"{track.name} has no {SHORTEST} frames in a row with the face: there is nothing to score.")
    weights = np.array(lengths, np.float64)
    figures = {name: _mean(np.array([piece[name] for piece in pieces]), weights) for name in pieces[0]}
    total = len(good) if truth is None else max(int(truth.found.sum()), 1)
    seen = track.found if truth is None else track.found & _fitted(truth.found, len(good))
    return {"found": 100 * float(seen.sum()) / total, **figures}


def _check_same(track: Track, other: Track, what: str) -> None:
    if track.layout.count != other.layout.count:
        raise DataError(f"{track.name} has {track.layout.count} landmarks and the {what} {other.name} {other.layout.count}: "
                        "both must be of one set.")  # fmt: skip


def _fitted(mask: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    out = np.zeros(length, bool)
    out[: min(length, len(mask))] = mask[:length]
    return out


def _stretch(
    points: NDArray[np.float64], truth: NDArray[np.float64] | None, raw: NDArray[np.float64] | None, fps: float, track: Track
) -> dict[str, float]:
    try:
        trembles = stability.jitter(points)
        rest = stability.at_rest(next(t for t in (truth, raw, points) if t is not None), fps)[1:-1]
        figures = {
            "jitter": _rms(trembles),
            "jitter_face": _rms(stability.jitter(stability.in_face_frame(points))),
            "jitter_rest": _rms(trembles[rest]) if rest.sum() >= FEWEST_AT_REST else float("nan"),
            "lag_raw": float("nan") if raw is None else metrics.lag(points, raw),
        }
        if truth is not None:
            figures |= metrics.video_summary(points, truth, track.layout)
    except ValueError as error:
        raise DataError(f"{track.name} cannot be scored: {error}.") from error
    return figures


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean()))


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    good = np.isfinite(values)
    return float((values[good] * weights[good]).sum() / weights[good].sum()) if good.any() else float("nan")


def table(scores: Mapping[str, Mapping[str, float]], protocol: str) -> str:
    """A row a track, in Markdown, under the protocol; figures that no track has are left out."""
    head, *rows = _cells(scores)
    lines = [protocol, "", f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _cells(scores: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """The table's head and a row a track."""
    titles = {**BLIND, **COLUMNS}
    columns = [name for name in titles if any(np.isfinite(row.get(name, np.nan)) for row in scores.values())]
    rows = [
        [name, *(f"{round(v, 2) + 0.0:.2f}" if np.isfinite(v := row.get(c, float("nan"))) else "-" for c in columns)]
        for name, row in scores.items()
    ]
    return [["track", *(titles[c] for c in columns)], *rows]


def write_page(
    path: Path, tracks: Mapping[str, Track], scores: Mapping[str, Mapping[str, float]], protocol: str, fps: float,
    truth: Track | None = None,
) -> Path:  # fmt: skip
    """One page of HTML with the table and the plots in it: jitter over time, and how far mouth and eyes are open.

    Raises:
        FileError: if it cannot be written.
    """
    head, *rows = _cells(scores)
    body = ["<table>", _row(head, "th"), *(_row(row, "td") for row in rows), "</table>"]
    picture = base64.b64encode(_plots(tracks, fps, truth)).decode()
    words = (
        "Jitter is the distance of a landmark from the middle between its places in the frames before and after: the part of a "
        "motion that nobody means. Steady motion has none. A filter lowers jitter and adds lag, so read both."
    )
    document = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>How steady: {html.escape(", ".join(scores))}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} td, th {{ border: 1px solid #ccc; padding: .3rem .6rem; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }} img {{ max-width: 100%; }}</style></head><body>
<h1>How steady are these landmarks?</h1>
<p>{html.escape(protocol)}</p>
{"".join(body)}
<p>{words}</p>
<img alt="Jitter, mouth opening and eye opening over time" src="data:image/png;base64,{picture}">
</body></html>
"""
    return write_atomically(path, document)


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _plots(tracks: Mapping[str, Track], fps: float, truth: Track | None) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    top, mouth, eyes = figure.subplots(3, 1, sharex=True)
    shown: Sequence[tuple[str, Track, str]] = [(name, track, f"C{i}") for i, (name, track) in enumerate(tracks.items())]
    if truth is not None:
        shown = [*shown, ("truth", truth, "k")]
    for name, track, colour in shown:
        stretches = [(start, stop) for start, stop in runs(track.found) if stop - start >= 3]
        for start, stop in stretches:
            seconds = np.arange(start, stop) / fps
            points = track.points[start:stop]
            size = metrics.face_size(points)
            style = {"color": colour, "lw": 1.0, "ls": "--" if name == "truth" else "-"}
            label = {"label": name} if start == stretches[0][0] else {}
            top.plot(seconds[1:-1], stability.jitter(points), **style, **label)
            for axes, parts in ((mouth, ["mouth"]), (eyes, ["left_eye", "right_eye"])):
                openings = [track.layout.openings[p].width(points) for p in parts if p in track.layout.openings]
                if openings:
                    axes.plot(seconds, 100 * np.mean(openings, 0) / size, **style)
    top.set(ylabel="jitter, % of sqrt(w h)")
    mouth.set(ylabel="mouth opening, %")
    eyes.set(ylabel="eye opening, %", xlabel="seconds")
    for axes in (top, mouth, eyes):
        axes.grid(alpha=0.3)
    top.legend(fontsize=8)
    return saved_bytes(lambda file: figure.savefig(file, dpi=100, format="png"))

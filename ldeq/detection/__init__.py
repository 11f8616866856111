"""Finds faces in a picture, as boxes that a landmark model can start from: one detector a file, and the choice among them."""

from .base import Detector, DetectorError, OneThreadAtATime
from .centerface import INSTALL, CenterFace, centerface_missing
from .choice import choose_detector, detector_findings, make_detector
from .haar import detect_faces
from .yunet import YuNet, yunet_boxes

__all__ = [
    "INSTALL",
    "CenterFace",
    "Detector",
    "DetectorError",
    "OneThreadAtATime",
    "YuNet",
    "centerface_missing",
    "choose_detector",
    "detect_faces",
    "detector_findings",
    "make_detector",
    "yunet_boxes",
]

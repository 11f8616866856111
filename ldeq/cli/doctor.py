"""``ldeq doctor``."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from typing import Any

import cv2
import torch

from .. import __version__
from ..detection import detector_findings
from ..engine import CheckpointError, load_pretrained, shipped_models
from ..engine.device import resolve_device
from ..models.inference.engine import choose_engine
from ..models.inference.onnxruntime_engine import onnxruntime_missing
from ..models.inference.packed import packing_missing
from ..ops import available_backends
from ..ops.library import show_config
from ..threads import choose_threads
from ..video.camera import camera_devices
from ..video.encoders import choose_encoder
from ..video.reading import DEFAULT_RATE, VideoError, require_av
from ..waiting import choose_waiting, threads_sleep
from .arguments.doctor import DoctorArguments


class Doctor(DoctorArguments):
    def run(self) -> int:
        findings = examine()
        if self.json:
            print(json.dumps(findings, indent=1))
        else:
            for group, entries in findings.items():
                print(group)
                for name, value in entries.items():
                    print(f"  {name:<12} {value}")
        return 0


def examine() -> dict[str, dict[str, Any]]:
    """Versions, device, backends, detector and models, each with the reason where it is missing."""
    if torch.cuda.is_available():
        device = f"cuda: {torch.cuda.get_device_name()}"
    elif torch.version.cuda:
        device = f"cpu: torch is built for CUDA {torch.version.cuda}, but sees no GPU (driver missing or none visible)"
    else:
        device = "cpu: this torch is a CPU build"
    return {
        "versions": {
            "ldeq": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "opencv": cv2.__version__,
        },
        "device": {
            "used": device,
            "threads": _threads(),
            "waiting": choose_waiting(os.environ).reason,
            "bf16": _bf16(),
        },
        "engine": _engines(),
        "backends": available_backends(),
        "kernels": show_config(verbose=False),
        "video": {"pyav": _pyav(), "encoder": _encoder(), "camera": _camera()},
        "detector": detector_findings(),
        "models": {name: _model(name) for name in shipped_models()} or {"none": "no model is shipped with this build"},
    }


def _threads() -> str:
    sleep = choose_waiting(os.environ).value == "passive" or threads_sleep(os.environ)
    engine = choose_engine(resolve_device("auto"))[0]
    choice = choose_threads(gives_way=sleep and engine == "onnxruntime")
    return f"{choice.count} of {os.cpu_count()} cores for predict, video, webcam and eval: {choice.reason}"


def _engines() -> dict[str, str]:
    used, why = choose_engine(resolve_device("auto"))
    missing = onnxruntime_missing()
    return {
        "used": f"{used}: {why}",
        "torch": packing_missing() or "packed convolutions of oneDNN",
        "onnxruntime": missing or version("onnxruntime"),
    }


def _pyav() -> str:
    try:
        return str(require_av().__version__)
    except VideoError as error:
        return f"missing: {error}"


def _encoder() -> str:
    """What writes videos, and whether they play in browsers."""
    try:
        encoder = choose_encoder(require_av(), ".mp4", 1280, 720, DEFAULT_RATE)
    except VideoError as error:
        return f"missing: {error}"
    return f"{encoder.name}: {encoder.plays or 'H.264, which plays everywhere'}"


def _camera() -> str:
    found = camera_devices()
    if found is None:
        return "not looked for; try: ldeq webcam"
    return ", ".join(map(str, found)) if found else "none: there is no /dev/video*"


def _bf16() -> str:
    if torch.cuda.is_available():
        return "fast" if torch.cuda.is_bf16_supported(including_emulation=False) else "not in hardware: leave amp off"
    capability = torch.backends.cpu.get_cpu_capability()
    # The name is private to torch; without it the capability alone is told.
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return f"in hardware ({capability})" if has else f"not in hardware ({capability}): leave amp off"


def _model(name: str) -> str:
    try:
        pretrained = load_pretrained(name)
    except CheckpointError as error:
        return f"damaged: {error}"
    parameters = sum(p.numel() for p in pretrained.model.parameters()) / 1e6
    return f"{pretrained.layout.name}, {parameters:.2f} M parameters; {pretrained.card.get('licence', 'no licence stated')}"

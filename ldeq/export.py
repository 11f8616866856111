"""Models for other runtimes: an ONNX file, or a program of `torch.export`.

Both take pictures as they lie in memory and give landmarks in pixels of the crop:

| | name | shape | type | |
| --- | --- | --- | --- | --- |
| in | ``images`` | `(B, S, S, 3)` | uint8 | RGB crops; they are normalised inside |
| in | ``z0`` | `(B, K, S/4, S/4)` | float32 | zeros, or the ``z`` of the last frame |
| out | ``landmarks`` | `(B, K, 2)` | float32 | x, y in pixels of the crop; the centre of the first pixel is (0, 0) |
| out | ``std`` | `(B, K)` | float32 | standard deviation of each landmark, in the same pixels |
| out | ``z`` | `(B, K, S/4, S/4)` | float32 | the state |
| out | ``residual`` | `(B,)` | float32 | norm of f(z) - z over that of f(z), of the last evaluation |

The number of evaluations z <- f(z) is fixed when the file is written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import __version__
from .data.normalise import IMAGENET_MEAN, IMAGENET_STD, normalise
from .engine.weights import Pretrained
from .errors import LdeqError
from .files import write_atomically
from .models import LDEQ
from .models.inference.folded import Convolution, Folded, evaluation, fold, injection_term
from .models.inference.plain import PlainOperations
from .models.inference.snapshot import why_not_foldable
from .ops import heatmap_readout

if TYPE_CHECKING:
    import onnx

    from .models.inference.onnx_graph import OnnxGraph

INSTALL = "pip install 'ldeq[export]'"
"""What brings the packages that an export needs."""

TOLERANCE = 1e-4
"""How far exported landmarks may be from PyTorch's, in sides of the crop."""

INPUTS = ("images", "z0")
OUTPUTS = ("landmarks", "std", "z", "residual")


Run = Callable[[NDArray[np.uint8], Tensor], tuple[Tensor, ...]]
"""Images and z0 to the outputs of an export."""


class ExportError(LdeqError):
    """A model cannot be exported, or the export does not agree with it."""


class Agreement(NamedTuple):
    """Largest differences between an export and PyTorch: `landmarks` and `std` in sides of the crop, `z` of heatmaps."""

    landmarks: float
    std: float
    z: float
    images: int


def export_onnx(pretrained: Pretrained, path: str | Path, *, evaluations: int | None = None) -> Path:
    """Writes a model as an ONNX file (opset 18) with its own description in the metadata.

    ```python
    export_onnx(load_pretrained("small-68"), "small-68.onnx", evaluations=1)
    ```

    Args:
        pretrained: the model and its layout, crop and card.
        path: the file.
        evaluations: of the cell in each run, >= 1; those of the model's own full solve if None. One evaluation a frame is
            what recurrence without recurrence takes.

    Returns:
        The path.

    Raises:
        ExportError: if onnx is missing, `evaluations` is below 1, or the model is not a plain one.
        FileError: if the file cannot be written.
    """
    need("onnx")
    import onnx

    model = pretrained.model
    evaluations = checked_evaluations(model, evaluations)
    document = onnx_model(folded_of(model), model.config.eps, evaluations)
    document.doc_string = f"{pretrained.name}: {pretrained.layout.count} facial landmarks, {evaluations} evaluations"
    onnx.helper.set_model_props(document, metadata(pretrained, evaluations))
    return write_atomically(path, document.SerializeToString())


def export_torch(pretrained: Pretrained, path: str | Path, *, evaluations: int | None = None) -> Path:
    """Writes a model as a program of `torch.export` (``.pt2``), with the inputs and outputs of the ONNX file.

    Its description lies in the extra file ``ldeq.json``: ``torch.export.load(path, extra_files=extra)``.

    Args:
        pretrained, path, evaluations: as in `export_onnx`.

    Returns:
        The path.

    Raises:
        ExportError: if `evaluations` is below 1, or the model is not a plain one.
        FileError: if the file cannot be written.
    """
    evaluations = checked_evaluations(pretrained.model, evaluations)
    program = torch_program(pretrained.model, evaluations)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"ldeq.json": json.dumps(metadata(pretrained, evaluations))})
    return write_atomically(path, buffer.getvalue())


def metadata(pretrained: Pretrained, evaluations: int) -> dict[str, str]:
    """What the files say of themselves; values that are not plain text are JSON."""
    config, layout = pretrained.model.config, pretrained.layout
    return {
        "model": pretrained.name,
        "ldeq_version": __version__,
        "layout": layout.name,
        "mirror_index": json.dumps([int(i) for i in layout.mirror_index]),
        "image_size": str(config.image_size),
        "pixels": "uint8 RGB, rows first; normalised with the ImageNet mean and deviation inside the graph",
        "coordinates": "pixels of the crop; the centre of the first pixel is (0, 0)",
        "crop_rule": pretrained.crop_rule,
        "crop_scale": str(pretrained.crop_scale),
        "crop": (
            "square about the middle of the landmarks' box, side = crop_scale x the longer side of that box; "
            "crop index = (picture index - x0 + 0.5) * image_size / side - 0.5, black outside the picture"
        ),
        "evaluations": str(evaluations),
        "iteration": "z <- f(z)",
        "licence": str(pretrained.card.get("licence", "not stated")),
        "card": json.dumps(pretrained.card),
    }


def checked_evaluations(model: LDEQ, evaluations: int | None) -> int:
    """`evaluations`, or those of the model's full solve for None.

    Raises:
        ExportError: if it is below 1.
    """
    if evaluations is None:
        return model.config.max_iter + model.config.final_evaluation
    if evaluations < 1:
        raise ExportError(f"evaluations must be >= 1, got {evaluations}")
    return evaluations


def folded_of(model: LDEQ) -> Folded:
    """The model's weights as inference takes them.

    Raises:
        ExportError: if modules have been replaced, or hooks change what they compute.
    """
    if reason := why_not_foldable(model):
        raise ExportError(f"this model cannot be exported, since {reason}; merge the change into the weights first")
    copy = deepcopy(model).float().cpu()
    return fold(copy.stem, copy.cell, model.config.heatmap_size)


def onnx_model(folded: Folded, eps: float, evaluations: int) -> onnx.ModelProto:
    """The graph of the module's table, without metadata."""
    from .models.inference.onnx_graph import FLOAT, UINT8, OnnxGraph

    graph = OnnxGraph()
    landmarks, h = folded.head.kernel.shape[0], folded.head.size
    term = write_injection(graph, folded)
    before, z = "", "z0"
    for _ in range(evaluations):
        before, z = z, evaluation(graph, folded, z, term)
    graph.op("Identity", z, output="z")
    write_readout(graph, z, h, eps)
    write_residual(graph, z, before)
    state = ("batch", landmarks, h, h)
    inputs = [("images", UINT8, ("batch", 4 * h, 4 * h, 3)), ("z0", FLOAT, state)]
    outputs = [
        ("landmarks", FLOAT, ("batch", landmarks, 2)),
        ("std", FLOAT, ("batch", landmarks)),
        ("z", FLOAT, state),
        ("residual", FLOAT, ("batch",)),
    ]
    return graph.model(inputs, outputs)


def pixels_folded(folded: Folded) -> Folded:
    """For images of 0 to 255 less the mean pixel: the division by the deviation moves into the first convolution."""
    first = folded.first
    scale = 1 / (255 * torch.tensor(IMAGENET_STD, dtype=torch.float64)).view(1, 3, 1, 1)
    kernel = (first.kernel.double() * scale).float()
    return replace(folded, first=Convolution(kernel, first.bias, first.size, first.stride))


def _mean_pixel() -> Tensor:
    return 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1)


def write_injection(graph: OnnxGraph, folded: Folded) -> str:
    """The injection term of the input ``images``, uint8."""
    from .models.inference.onnx_graph import FLOAT

    planes = graph.op("Cast", graph.op("Transpose", "images", perm=[0, 3, 1, 2]), to=FLOAT)
    centred = graph.op("Sub", planes, graph.constant(_mean_pixel().numpy()))
    return injection_term(graph, pixels_folded(folded), centred)


def write_readout(graph: OnnxGraph, z: str, h: int, eps: float) -> None:
    """Means and deviation of p = z / (sum z + eps), in pixels of the crop, of which a heatmap cell has four."""
    rows = graph.op("ReduceSum", z, graph.constant([3], np.int64), keepdims=0)
    columns = graph.op("ReduceSum", z, graph.constant([2], np.int64), keepdims=0)
    axis = graph.constant([2], np.int64)
    mass = graph.op("Add", graph.op("ReduceSum", columns, axis, keepdims=1), graph.constant(eps))
    place = graph.constant(4 * np.arange(h, dtype=np.float32))
    means, variances = [], []
    for part in (columns, rows):
        share = graph.op("Div", part, mass)
        mean = graph.op("ReduceSum", graph.op("Mul", share, place), axis, keepdims=1)
        off = graph.op("Sub", place, mean)
        variances.append(graph.op("ReduceSum", graph.op("Mul", share, graph.op("Mul", off, off)), axis, keepdims=0))
        means.append(mean)
    graph.op("Concat", *means, axis=2, output="landmarks")
    half = graph.op("Mul", graph.op("Add", *variances), graph.constant(0.5))
    graph.op("Sqrt", half, output="std")


def write_residual(graph: OnnxGraph, z: str, before: str) -> None:
    """Norm of z - before over that of z, as the output ``residual``."""
    axes = graph.constant([1, 2, 3], np.int64)
    step, size = (graph.op("ReduceL2", v, axes, keepdims=0) for v in (graph.op("Sub", z, before), z))
    graph.op("Div", step, size, output="residual")


class ExportedModel(nn.Module):
    """The inputs and outputs of an export, in PyTorch."""

    def __init__(self, folded: Folded, eps: float, evaluations: int) -> None:
        super().__init__()
        self.folded, self.eps, self.evaluations = pixels_folded(folded), eps, evaluations
        self.register_buffer("mean_pixel", _mean_pixel())

    def forward(self, images: Tensor, z0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        run, size = PlainOperations(), images.shape[1]
        term = injection_term(run, self.folded, images.permute(0, 3, 1, 2).float() - cast(Tensor, self.mean_pixel))
        before = z = z0
        for _ in range(self.evaluations):
            before, z = z, evaluation(run, self.folded, z, term)
        xy, std = heatmap_readout(z, coords="unit", eps=self.eps, backend="torch")
        norm = torch.linalg.vector_norm
        return xy * size, std * size, z, norm(z - before, dim=(1, 2, 3)) / norm(z, dim=(1, 2, 3))


def torch_program(model: LDEQ, evaluations: int) -> torch.export.ExportedProgram:
    """The model as a program of `torch.export`, of any batch."""
    config = model.config
    module = ExportedModel(folded_of(model), config.eps, evaluations).eval()
    images = torch.zeros(2, config.image_size, config.image_size, 3, dtype=torch.uint8)
    z0 = torch.zeros(2, config.landmarks, config.heatmap_size, config.heatmap_size)
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        return torch.export.export(module, (images, z0), dynamic_shapes={"images": batch, "z0": batch})


def expected(model: LDEQ, images: NDArray[np.uint8], z0: Tensor, evaluations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Landmarks and std in sides of the crop, and z: by the model's own modules, evaluation by evaluation.

    Args:
        model: in eval mode, on the CPU.
        images: `(B, S, S, 3)` uint8.
        z0: `(B, K, h, h)`.
        evaluations: >= 1.
    """
    with torch.no_grad():
        x = model.stem(normalise(torch.from_numpy(images).permute(0, 3, 1, 2)))
        z, injection = z0, model.cell.prepare(x)
        for _ in range(evaluations):
            z = model.cell(z, injection)
        xy, std = heatmap_readout(z, coords="unit", eps=model.config.eps)
        return xy, std, z


def verify_onnx(path: str | Path, model: LDEQ, images: NDArray[np.uint8], evaluations: int) -> Agreement:
    """Compares an exported file, run by onnxruntime, with PyTorch: from zeros, and once more from the state found.

    Args:
        path: of the file.
        model: that it was made of.
        images: `(B, S, S, 3)` uint8 crops.
        evaluations: that it was made with.

    Raises:
        ExportError: if onnxruntime is missing, or landmarks or deviations differ by more than `TOLERANCE`.
    """
    need("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8], z0: Tensor) -> tuple[Tensor, ...]:
        found = session.run(list(OUTPUTS), {"images": images, "z0": z0.numpy()})
        return tuple(map(torch.from_numpy, found))

    return _compared(path, run, model, images, evaluations)


def verify_torch(path: str | Path, model: LDEQ, images: NDArray[np.uint8], evaluations: int) -> Agreement:
    """`verify_onnx` for a program of `torch.export`."""
    program = torch.export.load(path).module()
    return _compared(path, lambda images, z0: program(torch.from_numpy(images), z0), model, images, evaluations)


def _compared(path: str | Path, run: Run, model: LDEQ, images: NDArray[np.uint8], evaluations: int) -> Agreement:
    size = model.config.image_size
    worst = torch.zeros(3)
    z = model.initial_state(len(images)).cpu()
    for _ in range(2):
        wanted = expected(model, images, z, evaluations)
        # One alone as well: the batch must not be fixed.
        for rows in (slice(None), slice(0, 1)):
            landmarks, std, state, _ = run(images[rows], z[rows])
            found = (landmarks / size, std / size, state)
            worst = torch.stack([(f - w[rows]).abs().max() for f, w in zip(found, wanted, strict=True)]).maximum(worst)
        z = wanted[2]
    landmarks, std, state = worst.tolist()
    # NaN is no agreement.
    if not (landmarks <= TOLERANCE and std <= TOLERANCE):
        raise ExportError(
            f"{path} does not agree with PyTorch: landmarks differ by {landmarks:.1e} and deviations by {std:.1e} of the "
            f"crop's side, and {TOLERANCE} is allowed; report this with the output of: ldeq doctor --json"
        )
    return Agreement(landmarks, std, state, len(images))


def need(package: str, install: str = INSTALL) -> None:
    """
    Args:
        package: that must be there.
        install: what brings it.

    Raises:
        ExportError: if a package of the extra is missing.
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ExportError(f"exporting needs the package {package}, which is not installed: {install}")

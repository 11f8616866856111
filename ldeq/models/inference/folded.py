r"""The model for inference: what depends on the weights alone is computed once.

`fold` reads the weights of a stem and a cell. BatchNorm in eval mode is the affine map a v + c. The last one of the stem is
followed by the 1x1 convolution of the injection term, so that both are one convolution:

$$ W_x (a v + c) + b = (W_x \, \mathrm{diag}(a)) v + (W_x c + b). $$

The one before the max-pool moves behind it, to a quarter of the pixels, if no a is negative: max(a v + c) = a max(v) + c.

`injection_term` and `evaluation` are the network itself, written once over a small set of `Operations`. PyTorch runs it
(`plain`, `packed`), and the ONNX writer records it (`onnx_graph`), so that no engine can drift from another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from ..cell import Block, Cell, HourglassLevel, Stem

V = TypeVar("V")
"""What an engine computes with: tensors, or names of values in a graph."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A "same" convolution: `kernel` `(out, in, k, k)`, `bias` `(out,)` or None; `size` is the side of its input."""

    kernel: Tensor
    bias: Tensor | None
    size: int
    stride: int = 1


@dataclass(frozen=True, eq=False)
class Affine:
    """`scale` and `shift` `(C, 1, 1)` of each channel."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """A GroupNorm over maps of side `size`; `scale` and `shift` `(C,)`."""

    groups: int
    eps: float
    scale: Tensor
    shift: Tensor
    size: int


@dataclass(frozen=True, eq=False)
class FoldedBlock:
    convolution: Convolution
    norm: Norm


@dataclass(frozen=True, eq=False)
class FoldedLevel:
    skip: FoldedBlock
    down: FoldedBlock
    inner: FoldedLevel | FoldedBlock
    up: FoldedBlock
    fuse_low: Convolution
    fuse: FoldedBlock
    residual: FoldedBlock


@dataclass(frozen=True, eq=False)
class Folded:
    """All weights as inference takes them, float32."""

    first: Convolution
    first_norm: Affine
    second: Convolution
    second_norm: Affine
    pool_first: bool
    third: Convolution
    injection: Convolution
    mix: FoldedBlock
    hourglass: FoldedLevel | FoldedBlock
    head: Convolution
    beta: float

    def convolutions(self) -> Iterator[Convolution]:
        """All of them, in the order of the fields."""
        return _convolutions(self)


class Operations(Protocol[V]):
    """What an engine must be able to do. Maps are `(B, C, H, W)`."""

    def convolve(self, v: V, convolution: Convolution, *, activate: bool = False) -> V:
        """With LeakyReLU behind it if `activate`."""

    def convolve_add(self, v: V, convolution: Convolution, other: V) -> V:
        """LeakyReLU of the convolution plus `other`."""

    def normalise(self, v: V, norm: Norm) -> V: ...

    def scale(self, v: V, affine: Affine) -> V: ...

    def max_pool(self, v: V) -> V:
        """2x2, stride 2."""

    def average_pool(self, v: V) -> V:
        """2x2, stride 2."""

    def upsample(self, v: V) -> V:
        """Nearest, by 2."""

    def add(self, a: V, b: V) -> V:
        """The sum; `b` is not used again and may be overwritten."""

    def heatmaps(self, logits: V, beta: float) -> V:
        """exp(beta (h - max h)) over each map."""


def injection_term(run: Operations[V], folded: Folded, images: V) -> V:
    """Normalised images `(B, 3, S, S)` to W_x x + b `(B, width, h, h)`, x the stem's features."""
    v = run.scale(run.convolve(images, folded.first, activate=True), folded.first_norm)
    v = run.convolve(v, folded.second, activate=True)
    norm = folded.second_norm
    v = run.scale(run.max_pool(v), norm) if folded.pool_first else run.max_pool(run.scale(v, norm))
    return run.convolve(run.convolve(v, folded.third, activate=True), folded.injection)


def evaluation(run: Operations[V], folded: Folded, z: V, term: V) -> V:
    """One evaluation of the cell: heatmaps and injection term to heatmaps `(B, K, h, h)`."""
    mixed = run.normalise(run.convolve_add(z, folded.mix.convolution, term), folded.mix.norm)
    logits = run.convolve(_hourglass(run, folded.hourglass, mixed), folded.head)
    return run.heatmaps(logits, folded.beta)


def _hourglass(run: Operations[V], part: FoldedLevel | FoldedBlock, v: V) -> V:
    if isinstance(part, FoldedBlock):
        return _block(run, part, v)
    skip = _block(run, part.skip, v)
    low = _block(run, part.down, run.average_pool(skip))
    low = _block(run, part.up, _hourglass(run, part.inner, low))
    raised = run.upsample(run.convolve(low, part.fuse_low))
    v = run.normalise(run.convolve_add(skip, part.fuse.convolution, raised), part.fuse.norm)
    return run.add(v, _block(run, part.residual, v))


def _block(run: Operations[V], block: FoldedBlock, v: V) -> V:
    return run.normalise(run.convolve(v, block.convolution, activate=True), block.norm)


@torch.no_grad()
def fold(stem: Stem, cell: Cell, heatmap_size: int) -> Folded:
    """The weights of the moment, BatchNorm in eval mode.

    Args:
        stem, cell: of one model, float32, on the CPU.
        heatmap_size: side of the heatmaps, a quarter of that of the images.
    """
    h = heatmap_size
    first, second, third = (cast(nn.Sequential, stem.layers[i]) for i in (0, 1, 3))
    second_norm, last = _affine(second[2]), _affine(third[2])
    landmarks = cell.head.out_channels
    mix = cast(nn.Conv2d, cell.mix[0])
    of_z, of_x = mix.weight.double().split((landmarks, mix.in_channels - landmarks), dim=1)
    bias = cast(Tensor, mix.bias).double() + of_x[:, :, 0, 0] @ last.shift.flatten()
    return Folded(
        first=_convolution(first[0], 4 * h),
        first_norm=_single(_affine(first[2])),
        second=_convolution(second[0], 2 * h),
        second_norm=_single(second_norm),
        pool_first=bool((second_norm.scale >= 0).all()),
        third=_convolution(third[0], h),
        injection=Convolution(_own(of_x * last.scale), _own(bias), h),
        mix=FoldedBlock(Convolution(_own(of_z), None, h), _norm(cell.mix, h)),
        hourglass=_fold_hourglass(cell.hourglass, h),
        head=_convolution(cell.head, h),
        beta=cell.beta,
    )


def _fold_hourglass(part: HourglassLevel | Block, size: int) -> FoldedLevel | FoldedBlock:
    if isinstance(part, Block):
        return _fold_block(part, size)
    fuse = cast(nn.Conv2d, part.fuse[0])
    low, skip = fuse.weight.chunk(2, dim=1)
    half = size // 2
    return FoldedLevel(
        skip=_fold_block(part.skip, size),
        down=_fold_block(part.down, half),
        inner=_fold_hourglass(part.inner, half),
        up=_fold_block(part.up, half),
        fuse_low=Convolution(_own(low), None, half),
        fuse=FoldedBlock(Convolution(_own(skip), _own(cast(Tensor, fuse.bias)), size), _norm(part.fuse, size)),
        residual=_fold_block(part.residual, size),
    )


def _fold_block(block: Block, size: int) -> FoldedBlock:
    return FoldedBlock(_convolution(block[0], size), _norm(block, size))


def _convolution(module: nn.Module, size: int) -> Convolution:
    module = cast(nn.Conv2d, module)
    return Convolution(_own(module.weight), _own(cast(Tensor, module.bias)), size, module.stride[0])


def _norm(block: Block, size: int) -> Norm:
    norm = cast(nn.GroupNorm, block[2])
    return Norm(norm.num_groups, norm.eps, _own(norm.weight), _own(norm.bias), size)


def _affine(module: nn.Module) -> Affine:
    """In float64, so that folding rounds once."""
    norm = cast(nn.BatchNorm2d, module)
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.double() / torch.sqrt(variance + norm.eps)
    return Affine(scale.view(-1, 1, 1), (norm.bias.double() - mean * scale).view(-1, 1, 1))


def _single(affine: Affine) -> Affine:
    return Affine(_own(affine.scale), _own(affine.shift))


def _own(tensor: Tensor) -> Tensor:
    """A contiguous float32 copy: what happens to the model's weights later must not reach it."""
    return tensor.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True).contiguous()


def _convolutions(part: object) -> Iterator[Convolution]:
    if isinstance(part, Convolution):
        yield part
    elif isinstance(part, Folded | FoldedBlock | FoldedLevel):
        for entry in fields(part):
            yield from _convolutions(getattr(part, entry.name))

r"""The stem and the hourglass cell of LDEQ (CVPR 2023, section 3 and appendix).

A solve evaluates the cell many times, so what does not change within a solve is computed once (`Cell.prepare`) and what can be
computed at a lower resolution is. For 1x1 convolutions, whose kernels are the halves of the published ones, both are exact:

$$ W [z, x] + b = W_z z + (W_x x + b), \quad W [\mathrm{up}(v), s] + b = \mathrm{up}(W_v v) + (W_s s + b), $$

with up the nearest upsampling. Neither concatenation is made.

That form reads the weights of the modules and does not call the modules. It is used only if nobody could see the difference
(`Cell.is_plain`). A cell that somebody has changed (LoRA or quantisation wrappers, parametrisations, forward hooks,
`fully_shard`) calls each of its modules, as the published cell does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import heatmap_normalise

SLOPE = 0.01
"""Of LeakyReLU below zero."""


class Stem(nn.Module):
    """Images `(B, 3, S, S)` to features `(B, width, S/4, S/4)`; BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
            # In place: training then keeps one tensor less of every block.
            return nn.Sequential(*_layers(inputs, outputs, kernel, stride, nn.BatchNorm2d(outputs), inplace=True))

        self.layers = nn.Sequential(
            block(3, width // 4, 7, stride=2),
            block(width // 4, width // 2, 3),
            nn.MaxPool2d(2),
            block(width // 2, width, 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class BlockWeights(NamedTuple):
    """Parameters of a `Block` as its evaluations take them: in their precision, laid out for the convolution."""

    kernel: Tensor
    bias: Tensor
    scale: Tensor
    shift: Tensor


class LevelWeights(NamedTuple):
    """Parameters of a `HourglassLevel`. The kernel of `fuse` is its half for the skip, `fuse_low` that for the level below."""

    skip: BlockWeights
    down: BlockWeights
    inner: LevelWeights | BlockWeights
    up: BlockWeights
    fuse_low: Tensor
    fuse: BlockWeights
    residual: BlockWeights


class Injection(NamedTuple):
    """All that an evaluation of the cell needs besides the state and the head; the same throughout a solve.

    - `term`: `(B, width, h, h)`, W_x x + b of the first convolution, in the precision of the evaluations.
    - `mix`: the first block, its kernel W_z alone.
    - `hourglass`: the rest.
    """

    term: Tensor
    mix: BlockWeights
    hourglass: LevelWeights | BlockWeights

    def select(self, rows: Tensor) -> Injection:
        """That of the samples `rows` `(n,)` int64 alone, for a solve that goes on with some of its batch."""
        return self._replace(term=self.term.index_select(0, rows))


class Evaluates(Protocol):
    """An injection that brings its own way to evaluate the cell."""

    def evaluate(self, z: Tensor) -> Tensor:
        """`(B, K, h, h)` to `(B, K, h, h)`."""


class Block(nn.Sequential):
    """Convolution with bias -> LeakyReLU -> GroupNorm, in that order; "same" padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        # Not in place: a full backward hook on the convolution could not be called.
        super().__init__(*_layers(inputs, outputs, kernel, 1, nn.GroupNorm(groups, outputs), inplace=False))

    def weights(self, dtype: torch.dtype, layout: torch.memory_format) -> BlockWeights:
        conv, norm = cast(nn.Conv2d, self[0]), cast(nn.GroupNorm, self[2])
        bias = cast(Tensor, conv.bias)
        return BlockWeights(
            conv.weight.to(dtype, memory_format=layout), bias.to(dtype), norm.weight.to(dtype), norm.bias.to(dtype)
        )

    def evaluate(self, v: Tensor, weights: BlockWeights) -> Tensor:
        """`forward` with given weights; the modules are not called."""
        return self.finish(F.conv2d(v, weights.kernel, weights.bias, padding=weights.kernel.shape[-1] // 2), weights)

    def finish(self, v: Tensor, weights: BlockWeights) -> Tensor:
        """Activation and norm of a convolution's output. It is overwritten: backward needs only what came of it."""
        activation, norm = cast(nn.LeakyReLU, self[1]), cast(nn.GroupNorm, self[2])
        v = F.leaky_relu(v, activation.negative_slope, inplace=True)
        return F.group_norm(v, norm.num_groups, weights.scale, weights.shift, norm.eps)


class HourglassLevel(nn.Module):
    """One level down and up again, around an inner module that works at half the resolution."""

    def __init__(self, width: int, inner_width: int, groups: int, inner: HourglassLevel | Block) -> None:
        super().__init__()
        self.skip = Block(width, width, 3, groups)
        self.down = Block(width, inner_width, 3, groups)
        self.inner = inner
        self.up = Block(inner_width, width, 3, groups)
        self.fuse = Block(2 * width, width, 1, groups)
        self.residual = Block(width, width, 5, groups)

    def weights(self, dtype: torch.dtype, layout: torch.memory_format) -> LevelWeights:
        fuse = self.fuse.weights(dtype, torch.preserve_format)
        low, skip = (half.contiguous(memory_format=layout) for half in fuse.kernel.chunk(2, dim=1))
        return LevelWeights(
            skip=self.skip.weights(dtype, layout),
            down=self.down.weights(dtype, layout),
            inner=self.inner.weights(dtype, layout),
            up=self.up.weights(dtype, layout),
            fuse_low=low,
            fuse=fuse._replace(kernel=skip),
            residual=self.residual.weights(dtype, layout),
        )

    def evaluate(self, v: Tensor, weights: LevelWeights) -> Tensor:
        """`forward` with given weights; the modules are not called."""
        w = weights
        skip = self.skip.evaluate(v, w.skip)
        down = self.down.evaluate(F.avg_pool2d(skip, 2), w.down)
        low = self.up.evaluate(self.inner.evaluate(down, w.inner), w.up)  # type: ignore[arg-type]
        mixed = F.conv2d(skip, w.fuse.kernel, w.fuse.bias)
        mixed += F.interpolate(F.conv2d(low, w.fuse_low), scale_factor=2.0, mode="nearest")
        v = self.fuse.finish(mixed, w.fuse)
        return v + self.residual.evaluate(v, w.residual)

    def forward(self, v: Tensor) -> Tensor:
        skip = self.skip(v)
        low = self.up(self.inner(self.down(F.avg_pool2d(skip, 2))))
        v = self.fuse(torch.cat((F.interpolate(low, scale_factor=2.0, mode="nearest"), skip), dim=1))
        return v + self.residual(v)


class Cell(nn.Module):
    """f(z, x): heatmaps `(B, K, h, h)` and stem features `(B, width, h, h)` to new heatmaps `(B, K, h, h)`.

    The heatmaps are exp(beta (h - max h)): peak 1, not normalised to sum one.

    ```python
    z = cell(z, x)                  # one evaluation
    injection = cell.prepare(x)     # for many: what depends on x and on the weights alone, once
    for _ in range(5):
        z = cell(z, injection)
    ```

    ``cell.compile()`` fuses activations and norms by `torch.compile`, in training and in inference, and is worth its minutes of
    compilation for long runs.
    """

    def __init__(self, landmarks: int, width: int, width_increment: int, depth: int, groups: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        widths = [width + level * width_increment for level in range(depth + 1)]
        inner: HourglassLevel | Block = Block(widths[-1], widths[-1], 3, groups)
        for level in reversed(range(depth)):
            inner = HourglassLevel(widths[level], widths[level + 1], groups, inner)
        self.mix = Block(landmarks + width, width, 1, groups)
        self.hourglass = inner
        self.head = nn.Conv2d(width, landmarks, 1)
        _xavier_normal(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def is_plain(self) -> bool:
        """Whether every module of the cell is as it was made, so that reading its weights is the same as calling it."""
        return all(map(_is_untouched, self.modules()))

    def prepare(self, x: Tensor) -> Tensor | Injection:
        """The injection's part of every evaluation, and the weights as evaluations take them: cast and split.

        If autograd records, the result carries the gradients of x and of the weights. The solve without a graph and the
        tracked evaluation after it may share it. It holds the weights and the autocast dtype of the moment.

        Args:
            x: `(B, width, h, h)`, the stem's features.

        Returns:
            the `Injection`; x itself if the cell is not plain (`is_plain`).
        """
        return self._inject(x) if self.is_plain else x

    def _inject(self, x: Tensor) -> Injection:
        dtype = x.dtype
        if dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        layout = _layout(x, dtype, torch.is_grad_enabled() and (x.requires_grad or self.head.weight.requires_grad))
        with _no_autocast(x):
            mix = self.mix.weights(dtype, torch.preserve_format)
            landmarks = self.head.out_channels
            of_z, of_x = (
                part.contiguous(memory_format=layout)
                for part in mix.kernel.split((landmarks, mix.kernel.shape[1] - landmarks), dim=1)
            )
            term = F.conv2d(x.to(dtype, memory_format=layout), of_x, mix.bias)
            return Injection(term, mix._replace(kernel=of_z), self.hourglass.weights(dtype, layout))

    def logits(self, z: Tensor, x: Tensor | Injection) -> Tensor:
        """The head's output h `(B, K, h, h)`, contiguous, before the heatmap normalisation."""
        if not isinstance(x, Injection):
            x = self.prepare(x)
        if isinstance(x, Tensor):
            return self._call_modules(z, x)
        term, mix, hourglass = x
        # Everything is cast already, and autocast would do it again for norms (float32 on CUDA).
        with _no_autocast(z):
            v = F.conv2d(z.to(term.dtype, memory_format=_layout_of(term)), mix.kernel)
            v += term
            features = self.hourglass.evaluate(self.mix.finish(v, mix), hourglass)  # type: ignore[arg-type]
            # The head runs in the state's precision under autocast and in a half-precision model, too: bf16 logits are off by
            # up to 0.4 % of themselves, and the exponential turns that into an error of the heatmap that no solver can iterate
            # away.
            head = self.head
            return F.conv2d(features.to(z.dtype), head.weight.to(z.dtype), head.bias.to(z.dtype)).contiguous()  # type: ignore[union-attr]

    def _call_modules(self, z: Tensor, x: Tensor) -> Tensor:
        features = self.hourglass(self.mix(torch.cat((z.to(x.dtype), x), dim=1)))
        # In the weights' precision, whatever autocast says, for the reason above. A wrapper may hold integers as well.
        dtype = next((p.dtype for p in self.head.parameters() if p.is_floating_point()), z.dtype)
        with _no_autocast(z):
            return self.head(features.to(dtype)).to(z.dtype).contiguous()

    def forward(self, z: Tensor, x: Tensor | Injection | Evaluates) -> Tensor:
        """
        Args:
            z: `(B, K, h, h)`.
            x: the stem's features `(B, width, h, h)`, or what `prepare` or an engine for inference made of them.
        """
        if not isinstance(x, Tensor | Injection):
            return x.evaluate(z)
        return heatmap_normalise(self.logits(z, x), self.beta)


def of_samples(x: Tensor | Injection, rows: Tensor) -> Tensor | Injection:
    """What `Cell.prepare` returned, of the samples `rows` `(n,)` int64 alone."""
    return x.select(rows) if isinstance(x, Injection) else x.index_select(0, rows)


_OWN_TYPES = frozenset((Cell, HourglassLevel, Block, nn.Conv2d, nn.LeakyReLU, nn.GroupNorm))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_untouched(module: nn.Module) -> bool:
    """Whether a module of the cell has its own type and settings, no hooks, no `forward` of an instance, and plain parameters.

    A parametrisation and `fully_shard` change the type, a LoRA or quantisation wrapper is another type, tensors that are
    quantised or sharded are no plain parameters, and `torch.nn.utils.prune` works by a hook. Parameters may be plain tensors:
    `torch.func.functional_call` puts such in their place.
    """
    own = module.__dict__
    return (
        type(module) in _OWN_TYPES
        and not any(own[hooks] for hooks in _HOOKS)
        and "forward" not in own
        and all(p is not None and type(p) in (nn.Parameter, Tensor) for p in own["_parameters"].values())
        and _has_its_settings(module)
    )


def _has_its_settings(module: nn.Module) -> bool:
    """Whether nobody changed how a convolution pads or steps, or the layers of a block: `Block.evaluate` knows its own."""
    if isinstance(module, nn.Conv2d):
        rows, columns = module.kernel_size
        settings = (module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
        return settings == ((1, 1), (rows // 2, columns // 2), (1, 1), 1, "zeros")
    return not isinstance(module, Block) or [type(layer) for layer in module] == [nn.Conv2d, nn.LeakyReLU, nn.GroupNorm]


def _layers(
    inputs: int, outputs: int, kernel: int, stride: int, norm: nn.Module, inplace: bool
) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    _xavier_normal(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv, nn.LeakyReLU(SLOPE, inplace=inplace), norm


def _xavier_normal(weight: Tensor) -> None:
    # A weight without memory has no values, and asking for normal ones there makes torch load its compiler, for a second.
    if not weight.is_meta:
        nn.init.xavier_normal_(weight)


def _layout(x: Tensor, dtype: torch.dtype, recording: bool) -> torch.memory_format:
    """Channels-last where it was measured to pay (benchmarks/NOTES.md): oneDNN on CPUs, which has no float64.

    There, backward of GroupNorm in half precision is what does not pay. Elsewhere as x lies, and so as the stem's weights do:
    the eager GroupNorm of CUDA copies to channels-first, so that a gain is not certain.
    """
    if x.device.type != "cpu" or dtype == torch.float64:
        return _layout_of(x)
    return torch.contiguous_format if recording and dtype != torch.float32 else torch.channels_last


def _layout_of(maps: Tensor) -> torch.memory_format:
    return torch.channels_last if maps.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _no_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()

"""States of several tensors, solved as one: how a structure lies in a single tensor (B, D_1 + ... + D_n)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import ArgumentError
from ..solvers import Solution


class Structure:
    """Packs a structure of tensors (B, ...) into one tensor (B, D), and unpacks it.

    A structure is whatever `torch.utils._pytree` knows: tuples, lists, dictionaries, named tuples, and data classes that
    `torch.export.register_dataclass` has registered.
    """

    def __init__(self, state: Any) -> None:
        """
        Raises:
            TypeError: for a leaf that is no tensor.
            ValueError: for an empty structure, and for tensors that differ in batch, dtype or device.
        """
        leaves, self.spec = pytree.tree_flatten(state)
        if not leaves:
            raise ArgumentError("z0 must hold at least one tensor, got an empty structure")
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"z0 must be a tensor or a structure of tensors, got a {type(leaf).__name__}; register a class of your own "
                    "with torch.export.register_dataclass"
                )
        first = leaves[0]
        for leaf in leaves:
            if leaf.ndim == 0 or not leaf.is_floating_point():
                raise ArgumentError(
                    f"every tensor of z0 must be floating point of shape (B, ...), got {leaf.dtype} {tuple(leaf.shape)}"
                )
            if leaf.shape[0] != first.shape[0]:
                raise ArgumentError(
                    f"the tensors of z0 must have one batch size, got {first.shape[0]} and {leaf.shape[0]}: each sample is "
                    "solved on its own"
                )
            if leaf.dtype != first.dtype or leaf.device != first.device:
                raise ArgumentError(
                    "the tensors of z0 must have one dtype and one device, since they are solved as one; got "
                    f"{first.dtype} on {first.device} and {leaf.dtype} on {leaf.device}"
                )
        self.shapes = tuple(leaf.shape[1:] for leaf in leaves)
        self.sizes = [math.prod(shape) for shape in self.shapes]

    @property
    def key(self) -> tuple[str, tuple[torch.Size, ...]]:
        """Equal for structures that are packed alike."""
        return str(self.spec), self.shapes

    def pack(self, state: Any) -> Tensor:
        """`(B, D)` of a structure; different dtypes, such as those of a cell under autocast, are promoted.

        Raises:
            ValueError: for a structure or shapes other than those of the start.
        """
        leaves, spec = pytree.tree_flatten(state)
        if spec != self.spec:
            raise ArgumentError(f"the cell must return the structure of its state, {self.spec}; it returned {spec}")
        parts = []
        for leaf, shape, size in zip(leaves, self.shapes, self.sizes, strict=True):
            if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[1:] != shape:
                got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ArgumentError(f"the cell must keep the shapes of its state, (B, *{tuple(shape)}); it returned {got}")
            parts.append(leaf.reshape(leaf.shape[0], size))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def unpack(self, flat: Tensor) -> Any:
        """The structure, of views of `flat` `(..., D)`."""
        parts = flat.split(self.sizes, dim=-1)
        leaves = [part.reshape(*flat.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return pytree.tree_unflatten(leaves, self.spec)

    def unpack_solution(self, solution: Solution) -> None:
        """Gives the values in a solution the structure of the state, in place: backward adds its `adjoint` to that object."""
        solution.value = self.unpack(solution.value)
        if solution.trajectory is not None:
            solution.trajectory = self.unpack(solution.trajectory)
        if solution.states is not None:
            solution.states = tuple(self.unpack(state) for state in solution.states)


class PackedCell:
    """A cell on structures as one on tensors `(B, D)`."""

    def __init__(self, cell: Callable[[Any, Any], Any], structure: Structure) -> None:
        self.cell, self.structure = cell, structure

    def __call__(self, z: Tensor, x: Any) -> Tensor:
        return self.structure.pack(self.cell(self.structure.unpack(z), x))


class PackedObserve:
    """What a solver with ``stop="motion"`` reads from a packed state."""

    def __init__(self, observe: Callable[[Any], Tensor], structure: Structure) -> None:
        self.observe, self.structure = observe, structure

    def __call__(self, z: Tensor) -> Tensor:
        return self.observe(self.structure.unpack(z))

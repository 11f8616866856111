"""The folded network written as an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ..cell import SLOPE
from .folded import Affine, Convolution, Norm

OPSET = 18
"""Reductions take their axes as an input from here on; runtimes of 2023 and later, onnxruntime-web included, know it."""

IR_VERSION = 8

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


class OnnxGraph:
    """`Operations` that record nodes; values are names. Weights that several evaluations share are stored once."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._names: dict[object, str] = {}
        self._values = 0

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Appends a node with one output and returns its name."""
        if output is None:
            self._values += 1
            output = f"{kind.lower()}_{self._values}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """The name of a constant; equal constants have one name."""
        array = np.ascontiguousarray(np.asarray(value, dtype))
        return self._keep((array.dtype.str, array.shape, array.tobytes()), array)

    def _weight(self, tensor: Tensor, shape: Sequence[int] | None = None) -> str:
        return self._keep((id(tensor), shape), tensor.numpy() if shape is None else tensor.numpy().reshape(shape))

    def _keep(self, key: object, array: NDArray[Any]) -> str:
        if key not in self._names:
            name = f"constant_{len(self._names)}"
            # A scalar must not become an array of one element.
            self._constants[name] = numpy_helper.from_array(array, name)
            self._names[key] = name
        return self._names[key]

    def convolve(self, v: str, convolution: Convolution, *, activate: bool = False) -> str:
        c = convolution
        side = c.kernel.shape[-1]
        weights = [self._weight(c.kernel)] + ([] if c.bias is None else [self._weight(c.bias)])
        v = self.op("Conv", v, *weights, kernel_shape=[side, side], pads=[side // 2] * 4, strides=[c.stride] * 2)
        return self.op("LeakyRelu", v, alpha=SLOPE) if activate else v

    def convolve_add(self, v: str, convolution: Convolution, other: str) -> str:
        return self.op("LeakyRelu", self.op("Add", self.convolve(v, convolution), other), alpha=SLOPE)

    def normalise(self, v: str, norm: Norm) -> str:
        """GroupNorm as an InstanceNorm of the groups: of four ways to write it the fastest in onnxruntime."""
        channels = len(norm.scale)
        groups = self.op("Reshape", v, self.constant([0, norm.groups, -1], np.int64))
        one, zero = (self.constant(np.full(norm.groups, value)) for value in (1.0, 0.0))
        groups = self.op("InstanceNormalization", groups, one, zero, epsilon=norm.eps)
        v = self.op("Reshape", groups, self.constant([0, channels, norm.size, norm.size], np.int64))
        shape = (channels, 1, 1)
        return self.op("Add", self.op("Mul", v, self._weight(norm.scale, shape)), self._weight(norm.shift, shape))

    def scale(self, v: str, affine: Affine) -> str:
        return self.op("Add", self.op("Mul", v, self._weight(affine.scale)), self._weight(affine.shift))

    def max_pool(self, v: str) -> str:
        return self.op("MaxPool", v, kernel_shape=[2, 2], strides=[2, 2])

    def average_pool(self, v: str) -> str:
        return self.op("AveragePool", v, kernel_shape=[2, 2], strides=[2, 2])

    def upsample(self, v: str) -> str:
        factors = self.constant([1, 1, 2, 2])
        how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        return self.op("Resize", v, "", factors, **how)

    def add(self, a: str, b: str) -> str:
        return self.op("Add", a, b)

    def heatmaps(self, logits: str, beta: float) -> str:
        below = self.op("Sub", logits, self.op("ReduceMax", logits, self.constant([2, 3], np.int64), keepdims=1))
        return self.op("Exp", below if beta == 1.0 else self.op("Mul", below, self.constant(beta)))

    def model(
        self, inputs: Sequence[tuple[str, int, Sequence[str | int]]], outputs: Sequence[tuple[str, int, Sequence[str | int]]]
    ) -> onnx.ModelProto:
        """The finished model, checked.

        Args:
            inputs, outputs: name, element type and shape of each; a name in a shape is a dimension of any length.
        """
        given, returned = ([helper.make_tensor_value_info(*entry) for entry in entries] for entries in (inputs, outputs))
        graph = helper.make_graph(self._nodes, "ldeq", given, returned, list(self._constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="ldeq")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model

"""Operators of ONNX in PyTorch's words: the call by which a trace follows the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.export.onnx_graph.operation import Call, Named, Operation
from fastsal.networks.hooks import tensors_in

# Operators of each element alone, and others whose name says all, in PyTorch's words.
NAMES = {
    "Relu": "relu", "LeakyRelu": "leaky_relu", "PRelu": "prelu", "Elu": "elu", "Selu": "selu",
    "Celu": "celu", "Gelu": "gelu", "FastGelu": "gelu", "BiasGelu": "gelu", "Mish": "mish",
    "QuickGelu": "silu", "Swish": "silu", "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid",
    "Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign", "Tanh": "tanh",
    "ThresholdedRelu": "threshold", "Shrink": "threshold", "Softmax": "softmax",
    "LogSoftmax": "log_softmax", "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div",
    "Sum": "add", "Mean": "add", "Neg": "neg", "Pow": "pow", "Min": "minimum", "Max": "maximum",
    "Where": "where", "Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt",
    "GreaterOrEqual": "ge", "BatchNormalization": "batch_norm", "LayerNormalization": "layer_norm",
    "GroupNormalization": "group_norm", "InstanceNormalization": "instance_norm",
    "SimplifiedLayerNormalization": "rms_norm", "RMSNormalization": "rms_norm",
    "SkipLayerNormalization": "layer_norm", "GroupNorm": "group_norm",
    "LpNormalization": "normalize", "LRN": "local_response_norm", "Cast": "to", "CastLike": "to",
    "DequantizeLinear": "to", "DynamicQuantizeLinear": "to",
    "QLinearAdd": "add", "QLinearMul": "mul", "QLinearSigmoid": "sigmoid",
    "QLinearLeakyRelu": "leaky_relu", "Dropout": "dropout",
    "Attention": "scaled_dot_product_attention",
    "MultiHeadAttention": "scaled_dot_product_attention", "LSTM": "lstm", "GRU": "gru",
    "RoiAlign": "roi_align", "MaxRoiPool": "roi_pool", "TopK": "topk", "ArgMax": "argmax",
    "ArgMin": "argmin", "NonZero": "nonzero", "ScatterND": "scatter", "ScatterElements": "scatter",
}  # fmt: skip
# Of these the first input alone is a value; others say how it is stored.
STORED = frozenset(("CastLike", "DequantizeLinear", "DynamicQuantizeLinear"))
REDUCTIONS = {
    "ReduceMean": "mean", "ReduceMax": "amax", "ReduceMin": "amin", "ReduceSum": "sum",
    "ReduceProd": "prod", "ReduceL1": "norm", "ReduceL2": "norm", "ReduceSumSquare": "sum",
    "ReduceLogSum": "logsumexp", "ReduceLogSumExp": "logsumexp",
}  # fmt: skip
INTERPOLATIONS = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
PADDINGS = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}


def calls_of(operation: Operation) -> list[Call]:
    """Return an operation as calls of PyTorch functions, of which the last makes its outputs.

    Args:
        operation: The operation.

    Returns:
        The calls; an operator that is not known is one call of its own name, lower-case.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> (call,) = calls_of(Operation("Transpose", {"perm": [0, 2, 3, 1]}, (image,), (image,)))
        >>> call.function.__name__, call.args[1]
        ('permute', [0, 2, 3, 1])
    """
    kind, inputs = operation.kind, tuple(one for one in operation.inputs if one is not None)
    form = FORMS.get(kind)
    try:
        if form is not None:
            return [form(operation)]
        if kind in FUSED:
            return _fused(operation)
        if kind in REDUCTIONS:
            return [_reduction(operation)]
    except (ValueError, IndexError, KeyError, TypeError):
        # A form of the operator that is not known here.
        return [Call(Named(kind.lower()), inputs, outputs=None)]
    name = NAMES.get(kind) or kind.lower()
    known = kind in NAMES
    if kind in STORED:
        inputs = inputs[:1]
    return [Call(Named(name), inputs, outputs=1 if known else None)]


def _convolution(operation: Operation) -> Call:
    """Return `conv1d`, `conv2d` or `conv3d`; padding is that before the input."""
    return _of_weights(operation, operation.read, 1, 2)


def _quantized_convolution(operation: Operation) -> Call:
    return _of_weights(operation, operation.read, 3, 8)


def _of_weights(operation: Operation, tensor: Tensor, weight: int, bias: int) -> Call:
    weights = operation.tensor(weight)
    if weights is None:
        raise ValueError("a convolution without weights")
    count = tensor.dim() - 2
    attributes = operation.attributes
    stride = _each(attributes, "strides", count)
    dilation = _each(attributes, "dilations", count)
    transposed = operation.kind == "ConvTranspose"
    kernel = tuple(weights.shape[2:])
    if transposed:
        before = list(attributes.get("pads", [0] * count))[:count]
    else:
        before = _padding(operation, kernel, stride, dilation)
    name = f"conv_transpose{count}d" if transposed else f"conv{count}d"
    return Call(
        getattr(F, name),
        (tensor, weights, operation.tensor(bias)),
        {"stride": stride, "padding": before, "dilation": dilation},
    )


def _fused(operation: Operation) -> list[Call]:
    """Return a convolution and the activation that is computed with it."""
    before = Operation(
        operation.kind, operation.attributes, operation.inputs, (operation.made.clone(),)
    )
    call = _of_weights(before, operation.read, 1, 2)
    activation = operation.attributes.get("activation", "Relu")
    return [call, Call(Named(NAMES.get(activation, "clamp")), (before.made,))]


def _pooling(name: str) -> Callable[[Operation], Call]:
    def call(operation: Operation) -> Call:
        tensor = operation.read
        count = tensor.dim() - 2
        kernel = tuple(operation.attributes["kernel_shape"])
        stride = _each(operation.attributes, "strides", count)
        dilation = _each(operation.attributes, "dilations", count)
        before = _padding(operation, kernel, stride, dilation)
        given = {"kernel_size": kernel, "stride": stride, "padding": before}
        return Call(getattr(F, f"{name}_pool{count}d"), (tensor,), given)

    return call


def _global_pooling(name: str) -> Callable[[Operation], Call]:
    def call(operation: Operation) -> Call:
        count = operation.read.dim() - 2
        return Call(Named(f"adaptive_{name}_pool{count}d"), (operation.read, 1))

    return call


def _each(attributes: Any, name: str, count: int) -> list[int]:
    return [int(value) for value in attributes.get(name, [1] * count)]


def _padding(
    operation: Operation, kernel: tuple[int, ...], stride: list[int], dilation: list[int]
) -> list[int]:
    """Return the elements before the input along each dimension of windows."""
    count = len(kernel)
    automatic = operation.attributes.get("auto_pad", "NOTSET")
    if automatic == "VALID":
        return [0] * count
    if not automatic.startswith("SAME"):
        return list(operation.attributes.get("pads", [0] * count))[:count]
    before = []
    for length, windows, step, wide in zip(
        operation.read.shape[2:], kernel, stride, dilation, strict=True
    ):
        reach = (math.ceil(length / step) - 1) * step + (windows - 1) * wide + 1
        total = max(0, reach - length)
        before.append((total + (automatic == "SAME_LOWER")) // 2)
    return before


def _linear(operation: Operation) -> Call:
    """Return `linear` for a product with constant weights on the right, else `matmul`."""
    first, second = operation.tensor(0), operation.tensor(1)
    if isinstance(second, torch.nn.Parameter) and second.dim() == 2:
        return Call(F.linear, (first, second, operation.tensor(2)))
    return Call(torch.matmul, (first, second))


def _quantized_linear(operation: Operation) -> Call:
    return Call(F.linear, (operation.read, operation.tensor(3)))


def _einsum(operation: Operation) -> Call:
    return Call(torch.einsum, (operation.attributes["equation"], *operation.inputs))


def _clip(operation: Operation) -> Call:
    """Return `relu6`, `relu` or `clamp`, by the bounds."""
    bounds = []
    for index, name in ((1, "min"), (2, "max")):
        bound = operation.tensor(index)
        given = operation.attributes.get(name)
        bounds.append(given if bound is None else float(bound))
    low, high = bounds
    name = "clamp"
    if low == 0:
        name = "relu6" if high is not None and high < 1e30 else "relu"
    return Call(Named(name), (operation.read,))


def _quantize(operation: Operation) -> Call:
    """Return `relu` where the zero point is the least integer, so that negative values become 0.

    Quantisation leaves out the ReLU before such a node.
    """
    zero = operation.tensor(2)
    least = 0 if zero is None else torch.iinfo(zero.dtype).min
    rectifies = zero is None or bool((zero == least).all())
    signed = bool(operation.read.amin() < 0)
    return Call(Named("relu" if rectifies and signed else "to"), (operation.read,))


def _reshape(operation: Operation) -> Call:
    return Call(torch.reshape, (operation.read, tuple(operation.made.shape)))


def _transpose(operation: Operation) -> Call:
    tensor = operation.read
    order = operation.attributes.get("perm", list(range(tensor.dim()))[::-1])
    return Call(Tensor.permute, (tensor, list(order)))


def _identity(operation: Operation) -> Call:
    return Call(torch.clone, (operation.read,))


def _concat(operation: Operation) -> Call:
    return Call(torch.cat, (list(tensors_in(operation.inputs)), operation.attributes["axis"]))


def _split(operation: Operation) -> Call:
    axis = operation.attributes.get("axis", 0)
    sizes = [one.shape[axis] for one in tensors_in(operation.outputs)]
    return Call(torch.split, (operation.read, sizes, axis), outputs=None)


def _slice(operation: Operation) -> Call:
    tensor = operation.read
    starts, ends = operation.numbers(1, "starts"), operation.numbers(2, "ends")
    axes = operation.numbers(3, "axes", range(len(starts)))
    steps = operation.numbers(4, "steps", [1] * len(starts))
    index = [slice(None)] * tensor.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = tensor.shape[axis]
        if step < 0:
            if len(axes) > 1:
                raise ValueError("a slice that turns several dimensions")
            stop = None if end < -length else end
            order = torch.arange(length, dtype=torch.long, device="cpu").tolist()[start:stop:step]
            at = torch.tensor(order, dtype=torch.long, device="cpu")
            return Call(torch.index_select, (tensor, axis, at))
        index[axis] = slice(start, min(end, length), step)
    return Call(Tensor.__getitem__, (tensor, tuple(index)))


def _gather(operation: Operation) -> Call:
    axis = operation.attributes.get("axis", 0)
    index = operation.tensor(1)
    if index is None or index.dim() > 1:
        raise ValueError("gathered by an array")
    length = operation.read.shape[axis]
    at = torch.where(index < 0, index + length, index).long()
    if at.dim() == 0:
        return Call(torch.select, (operation.read, axis, int(at)))
    return Call(torch.index_select, (operation.read, axis, at))


def _pad(operation: Operation) -> Call:
    tensor = operation.read
    pads = operation.numbers(1, "pads")
    axes = operation.numbers(3, "axes", range(len(pads) // 2))
    sides = dict.fromkeys(range(tensor.dim()), (0, 0))
    for place, axis in enumerate(axes):
        sides[axis % tensor.dim()] = (pads[place], pads[place + len(axes)])
    # PyTorch begins at the last dimension.
    listed = [side for axis in reversed(range(tensor.dim())) for side in sides[axis]]
    while len(listed) > 2 and listed[-2:] == [0, 0]:
        del listed[-2:]
    mode = PADDINGS[operation.attributes.get("mode", "constant")]
    return Call(F.pad, (tensor, listed), {"mode": mode})


def _resize(operation: Operation) -> Call:
    tensor, made = operation.read, operation.made
    if tensor.dim() != 4 or tensor.shape[:2] != made.shape[:2]:
        raise ValueError("resized along other dimensions than the last two")
    mode = INTERPOLATIONS[operation.attributes.get("mode", "nearest")]
    given: dict[str, Any] = {"size": tuple(made.shape[2:]), "mode": mode}
    if mode != "nearest":
        corners = operation.attributes.get("coordinate_transformation_mode")
        given["align_corners"] = corners == "align_corners"
    return Call(F.interpolate, (tensor,), given)


def _reduction(operation: Operation) -> Call:
    tensor = operation.read
    axes = operation.numbers(1, "axes") or list(range(tensor.dim()))
    if operation.attributes.get("noop_with_empty_axes") and not operation.numbers(1, "axes"):
        return _identity(operation)
    keep = bool(operation.attributes.get("keepdims", 1))
    return Call(Named(REDUCTIONS[operation.kind]), (tensor, axes), {"keepdim": keep})


def _expand(operation: Operation) -> Call:
    return Call(Tensor.expand, (operation.read, tuple(operation.made.shape)))


def _tile(operation: Operation) -> Call:
    return Call(Tensor.repeat, (operation.read, operation.numbers(1, "repeats")))


def _depth_to_space(operation: Operation) -> Call:
    return Call(F.pixel_shuffle, (operation.read, operation.attributes["blocksize"]))


def _space_to_depth(operation: Operation) -> Call:
    return Call(F.pixel_unshuffle, (operation.read, operation.attributes["blocksize"]))


def _gather_elements(operation: Operation) -> Call:
    axis = operation.attributes.get("axis", 0)
    return Call(torch.gather, (operation.read, axis, operation.tensor(1)))


def _grid_sample(operation: Operation) -> Call:
    corners = bool(operation.attributes.get("align_corners", 0))
    return Call(F.grid_sample, (operation.read, operation.tensor(1)), {"align_corners": corners})


FUSED = frozenset(("FusedConv", "NhwcFusedConv"))
FORMS: dict[str, Callable[[Operation], Call]] = {
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _convolution,
    "QLinearConv": _quantized_convolution,
    "MaxPool": _pooling("max"),
    "AveragePool": _pooling("avg"),
    "LpPool": _pooling("avg"),
    "GlobalAveragePool": _global_pooling("avg"),
    "GlobalLpPool": _global_pooling("avg"),
    "GlobalMaxPool": _global_pooling("max"),
    "Gemm": _linear,
    "MatMul": _linear,
    "MatMulInteger": _linear,
    "FusedMatMul": _linear,
    "QLinearMatMul": _quantized_linear,
    "Einsum": _einsum,
    "Clip": _clip,
    "QuantizeLinear": _quantize,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Identity": _identity,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "GridSample": _grid_sample,
}

"""Costs of PyTorch operations other than convolutions and matrix products.

One for each addition, multiplication, comparison or selection of a number; a logarithm,
exponential, root, power or error function is one transcendental operation. Moving, filling,
converting, sorting and drawing numbers is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor

__all__ = ["ELEMENTWISE", "FREE", "RULES", "Costs", "costs_of"]

# From an operation's arguments and results to the number of operations of one kind.
Cost = Callable[[Sequence[Any], Sequence[Tensor]], int]
Costs = Mapping[str, Cost]

_SMALL_POWERS = (2, 3, 4)


def _results(times: int = 1) -> Cost:
    """A number of operations for each element of the first result."""
    return lambda _, results: times * results[0].numel()


def _inputs(times: int = 1) -> Cost:
    """A number of operations for each element of the first argument."""
    return lambda arguments, _: times * int(arguments[0].numel())


def _scaled(arguments: Sequence[Any], results: Sequence[Tensor]) -> int:
    """An addition or subtraction, with a multiplication if the second term has a factor."""
    factor = arguments[2] if len(arguments) > 2 else 1
    return results[0].numel() * (1 if factor == 1 else 2)


def _sloped(place: int) -> Cost:
    """A selection, and a product with a slope that is not 0, the argument at a place."""

    def cost(arguments: Sequence[Any], results: Sequence[Tensor]) -> int:
        is_relu = len(arguments) > place and arguments[place] == 0
        return results[0].numel() * (1 if is_relu else 2)

    return cost


def _window(axes: int) -> Cost:
    """Pooling over so many axes: one operation for each element of each window."""

    def cost(arguments: Sequence[Any], results: Sequence[Tensor]) -> int:
        sides = tuple(int(side) for side in arguments[1])
        return results[0].numel() * (prod(sides) if len(sides) > 1 else sides[0] ** axes)

    return cost


def _for(names: str, **costs: Cost) -> dict[str, Costs]:
    return dict.fromkeys(names.split(), costs)


ELEMENTWISE: Costs = {"elementwise": _results()}

# By the operation's name without a trailing underscore.
RULES: dict[str, Costs] = {
    **_for(
        "acos asin atan cos cosh digamma erf erfc erfinv exp exp2 expm1 lgamma log log10 log1p "
        "log2 polygamma pow rsqrt sigmoid sin sinh special_log_ndtr special_ndtr sqrt tan tanh",
        transcendental=_results(),
    ),
    **_for(
        "elu gelu glu mish silu softplus special_xlogy xlogy",
        elementwise=_results(),
        transcendental=_results(),
    ),
    **_for("elu_backward softplus_backward", elementwise=_results(2), transcendental=_results()),
    **_for("log_sigmoid_forward", elementwise=_results(2), transcendental=_results(2)),
    **_for("log_sigmoid_backward", elementwise=_results(3)),
    # Of a gated half b, with s its sigmoid: s, and x s (1 - s); each times the gradient.
    **_for("glu_backward", elementwise=_inputs(5), transcendental=_inputs()),
    # A selection and a product; backwards of a learned slope a product more.
    **_for("leaky_relu", elementwise=_sloped(1)),
    **_for("leaky_relu_backward", elementwise=_sloped(2)),
    **_for("rrelu_with_noise rrelu_with_noise_backward _prelu_kernel", elementwise=_results(2)),
    **_for("_prelu_kernel_backward", elementwise=_results(3)),
    # A selection, as of ReLU.
    **_for("hardtanh_backward hardshrink_backward softshrink_backward", elementwise=_results()),
    **_for(
        "_log_softmax _safe_softmax _softmax",
        elementwise=_results(),
        transcendental=_results(),
        reduction=_inputs(),
    ),
    # The gradient less its part along the probabilities: y (g - sum(g y)), or g - exp(y) sum(g).
    **_for("_softmax_backward_data", elementwise=_results(3), reduction=_inputs()),
    **_for(
        "_log_softmax_backward_data",
        elementwise=_results(2),
        transcendental=_results(),
        reduction=_inputs(),
    ),
    **_for(
        "all amax amin aminmax any argmax argmin cumsum max min nansum prod sum "
        "adaptive_max_pool2d adaptive_max_pool3d",
        reduction=_inputs(),
    ),
    **_for(
        "mean _adaptive_avg_pool2d _adaptive_avg_pool3d",
        reduction=_inputs(),
        elementwise=_results(),
    ),
    # A sum, then differences, their squares and a sum; two divisions by the count, and the root.
    **_for("var var_mean", reduction=_inputs(4), elementwise=_results(2)),
    **_for(
        "std std_mean", reduction=_inputs(4), elementwise=_results(2), transcendental=_results()
    ),
    **_for("native_group_norm native_layer_norm", reduction=_inputs(4), elementwise=_results(4)),
    # The normalised values anew (2), times the weights (1), less two parts (4); two sums for the
    # input, and those for weights and offsets.
    **_for(
        "native_group_norm_backward native_layer_norm_backward",
        reduction=_inputs(4),
        elementwise=_inputs(7),
    ),
    **_for("linalg_vector_norm", reduction=_inputs(2), transcendental=_results()),
    # All eigenvalues and vectors of symmetric n x n matrices: 9 n^3 (Golub and Van Loan, 8.3).
    **_for(
        "_linalg_eigh",
        elementwise=lambda arguments, _: (
            9 * int(arguments[0].numel()) * int(arguments[0].shape[-1])
        ),
    ),
    **_for("add rsub sub", elementwise=_scaled),
    **_for("addcdiv addcmul lerp", elementwise=_results(3)),
    **_for("masked_fill", elementwise=_results()),
    # One, three or seven linear interpolations, each two products and a sum; five cubic ones, each
    # four products and three sums.
    **_for("upsample_linear1d", elementwise=_results(3)),
    **_for("upsample_linear1d_backward", elementwise=_inputs(3)),
    **_for("upsample_bilinear2d", elementwise=_results(9)),
    **_for("upsample_bilinear2d_backward", elementwise=_inputs(9)),
    **_for("upsample_trilinear3d", elementwise=_results(21)),
    **_for("upsample_trilinear3d_backward", elementwise=_inputs(21)),
    **_for("upsample_bicubic2d", elementwise=_results(35)),
    **_for("upsample_bicubic2d_backward", elementwise=_inputs(35)),
    # With running statistics: a scale and an offset for each element; backwards the scale alone.
    **_for(
        "_native_batch_norm_legit_no_training cudnn_batch_norm native_batch_norm",
        elementwise=_inputs(2),
    ),
    **_for("native_batch_norm_backward", elementwise=_inputs()),
    **_for("avg_pool2d fractional_max_pool2d max_pool2d_with_indices", elementwise=_window(2)),
    **_for("avg_pool3d fractional_max_pool3d max_pool3d_with_indices", elementwise=_window(3)),
    # One addition for each gradient that is handed back, of padding too.
    **_for(
        "adaptive_max_pool2d_backward adaptive_max_pool3d_backward col2im "
        "fractional_max_pool2d_backward fractional_max_pool3d_backward "
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward "
        "reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward "
        "replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward",
        elementwise=_inputs(),
    ),
    **_for(
        "avg_pool2d_backward avg_pool3d_backward _adaptive_avg_pool2d_backward "
        "_adaptive_avg_pool3d_backward",
        elementwise=_results(),
    ),
    # A shift, two comparisons, a division, and of hardswish a product.
    **_for("hardswish hardswish_backward", elementwise=_results(5)),
    **_for("hardsigmoid hardsigmoid_backward", elementwise=_results(4)),
    **_for("index_add scatter_add", elementwise=lambda arguments, _: int(arguments[3].numel())),
}

# Moving, filling, converting, sorting and drawing numbers.
FREE = _for(
    "_local_scalar_dense _to_copy _unsafe_index _unsafe_view _upsample_nearest_exact1d "
    "_upsample_nearest_exact1d_backward _upsample_nearest_exact2d "
    "_upsample_nearest_exact2d_backward _upsample_nearest_exact3d "
    "_upsample_nearest_exact3d_backward alias arange as_strided bernoulli cat channel_shuffle "
    "clone constant_pad_nd copy detach diagonal empty empty_like empty_strided equal expand eye "
    "fill flip full full_like gather im2col index index_put index_select is_pinned lift_fresh "
    "lift_fresh_copy linspace new_empty new_empty_strided new_full new_ones new_zeros nonzero "
    "normal normal_functional ones ones_like permute pixel_shuffle pixel_unshuffle promote_types "
    "rand rand_like randn randn_like reflection_pad1d reflection_pad2d reflection_pad3d repeat "
    "replication_pad1d replication_pad2d replication_pad3d reshape resize roll scalar_tensor "
    "select select_backward set slice slice_backward sort split split_with_sizes squeeze stack t "
    "topk transpose tril triu unbind unfold uniform unsqueeze upsample_nearest1d "
    "upsample_nearest1d_backward upsample_nearest2d upsample_nearest2d_backward "
    "upsample_nearest3d upsample_nearest3d_backward view zero zeros zeros_like"
)


def costs_of(name: str, arguments: Sequence[Any]) -> Costs | None:
    """The costs of an operation; None if no rule covers it.

    Args:
        name: name of the operation without a trailing underscore.
        arguments: arguments of the call.

    >>> costs_of("log2", []) is RULES["log2"], costs_of("view", [])
    (True, {})
    """
    if name in FREE:
        return {}
    if name == "pow" and isinstance(arguments[1], (int, float)) and arguments[1] in _SMALL_POWERS:
        # Repeated multiplications.
        return {"elementwise": _results(int(arguments[1]) - 1)}
    return RULES.get(name)

"""Names of PyTorch functions by what they do to the places of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload

# Functions that move values and compute none: coordinates move with them.
MOVES = frozenset(
    """view reshape flatten unflatten ravel permute transpose swapaxes swapdims movedim moveaxis t
    squeeze unsqueeze expand expand_as broadcast_to view_as reshape_as repeat repeat_interleave tile
    flip fliplr flipud rot90 roll narrow select slice index index_select __getitem__ chunk split
    split_with_sizes tensor_split hsplit vsplit dsplit unbind unfold fold pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle gather take_along_dim diagonal cat concat
    concatenate stack hstack vstack dstack column_stack as_strided
    T mT H mH""".split()  # noqa: SIM905
)
# Of these the functions that take another tensor's shape alone.
SHAPES = frozenset("expand_as view_as reshape_as".split())  # noqa: SIM905
JOINS = frozenset("cat concat concatenate stack hstack vstack dstack column_stack".split())  # noqa: SIM905
# Functions that bring values to places which only the values themselves decide.
SCATTERS = frozenset(
    """sort argsort topk msort scatter scatter_add scatter_reduce index_add index_copy masked_select
    nonzero argmax argmin bincount histc unique kthvalue cdist fft_fft fft_fft2 fft_fftn fft_rfft
    fft_rfft2 fft_rfftn fft_ifft fft_ifft2 fft_ifftn fft_irfft fft_irfft2 fft_irfftn""".split()  # noqa: SIM905
)
REDUCTIONS = frozenset(
    """mean sum amax amin max min std var norm logsumexp median nanmean prod any all var_mean
    std_mean aminmax vector_norm linalg_vector_norm""".split()  # noqa: SIM905
)
PRODUCTS = frozenset("matmul bmm einsum mm __matmul__ baddbmm addmm".split())  # noqa: SIM905
# Functions of a sequence that give one element for each of the first argument's.
SEQUENCES = frozenset(
    """linear scaled_dot_product_attention multi_head_attention_forward
    _native_multi_head_attention lstm gru rnn_tanh rnn_relu""".split()  # noqa: SIM905
)
# Functions that resample: they are applied to coordinates as to images.
RESAMPLINGS = frozenset(
    """interpolate upsample upsample_nearest upsample_bilinear upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_trilinear3d
    upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    grid_sample grid_sampler grid_sampler_2d grid_sampler_3d roi_align roi_pool ps_roi_align
    ps_roi_pool""".split()  # noqa: SIM905
)

# Functions that may leave out locations at the border.
CUTS = (MOVES | RESAMPLINGS | {"pad"}) - JOINS - SHAPES

# The beginnings of the names of functions that apply weights.
WEIGHTED = ("conv", "deform_conv", "linear", "matmul", "einsum", "bmm")

# Functions that hand a tensor's values to Python, where they may decide what is moved to where.
TO_PYTHON = frozenset("item tolist numpy __int__ __index__ __float__ __array__".split())  # noqa: SIM905


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name; of an attribute of tensors, such as `mT`, that of the attribute.

    >>> import torch
    >>> name_of(torch.relu), name_of(torch.ops.aten.relu.default)
    ('relu', 'relu')
    """
    if isinstance(function, OpOverload):
        # The operations of an exported program; without the form of their arguments.
        function = function.overloadpacket
    name = getattr(function, "__name__", str(function))
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    return str(name)


def plain_name(name: str) -> str:
    """Return the name of a function, without the underscore of those in place.

    >>> plain_name("relu_"), plain_name("__setitem__")
    ('relu', '__setitem__')
    """
    return name if name.startswith("__") else name.removesuffix("_")

"""Weights of HiResCAM, XGrad-CAM, LayerCAM and EigenCAM, registered by name."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.cam.registry import register_cam


@register_cam("hirescam", citation="Draelos and Carin 2020, section 3.2")
def hirescam_weights(activations: Tensor, derivatives: Tensor) -> Tensor:  # noqa: ARG001
    r"""Return HiResCAM's weight of every channel and location: the gradient itself.

    $$L_{ij} = \sum_k g_{kij}\, A_{kij}$$

    Where one linear layer follows global average pooling, it is Grad-CAM. Deviations from the
    paper: the ReLU of the class activation map, which `relu_attributions=False` leaves out.

    Args:
        activations: `(N, C, P)`, not read.
        derivatives: `(1 or more, N, C, P)`: the gradient, and further powers that are not read.

    Returns:
        `(N, C, P)`.

    Reference:
        Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
        convolutional neural networks", https://arxiv.org/abs/2011.08891

    >>> gradients = torch.tensor([[[1.0, 3.0]]])
    >>> hirescam_weights(gradients, gradients[None]).tolist()
    [[[1.0, 3.0]]]
    """
    return derivatives[0]


@register_cam("xgradcam", citation="Fu et al. 2020, Eq 9")
def xgradcam_weights(activations: Tensor, derivatives: Tensor) -> Tensor:
    r"""Return XGrad-CAM's weight of every channel: its gradient's mean, weighted by activation.

    $$w_k = \sum_{ij} \frac{A_{kij}}{\sum_{ab} A_{kab}}\, g_{kij}$$

    Deviations from the paper: a channel whose activations sum to 0 has the weight 0, where the
    formula divides by 0 (pytorch-grad-cam adds 1e-7 to the sum, torch-cam 1e-8), and the ReLU of
    the class activation map.

    Args:
        activations: `(N, C, P)`.
        derivatives: `(1 or more, N, C, P)`: the gradient, and further powers that are not read.

    Returns:
        `(N, C, 1)`.

    Reference:
        Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs",
        https://arxiv.org/abs/2008.02312

    >>> activations, gradients = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, 6.0]]])
    >>> xgradcam_weights(activations, gradients[None]).item()  # 2/4 + 3 * 6/4
    5.0
    """
    total = activations.sum(-1, keepdim=True)
    weighted = (activations * derivatives[0]).sum(-1, keepdim=True)
    return torch.where(total == 0, 0, weighted / total.masked_fill(total == 0, 1))


@register_cam("layercam", citation="Jiang et al. 2021, Eq 5 and 6")
def layercam_weights(activations: Tensor, derivatives: Tensor) -> Tensor:  # noqa: ARG001
    r"""Return LayerCAM's weight of every channel and location: the gradient where it is positive.

    $$L_{ij} = \mathrm{ReLU}\Big(\sum_k \mathrm{ReLU}(g_{kij})\, A_{kij}\Big)$$

    Deviations from the paper: none. `MultiLayerCAM` fuses the maps of several layers.

    Args:
        activations: `(N, C, P)`, not read.
        derivatives: `(1 or more, N, C, P)`: the gradient, and further powers that are not read.

    Returns:
        `(N, C, P)`.

    Reference:
        Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
        https://doi.org/10.1109/TIP.2021.3089943

    >>> gradients = torch.tensor([[[1.0, -3.0]]])
    >>> layercam_weights(gradients, gradients[None]).tolist()
    [[[1.0, 0.0]]]
    """
    return derivatives[0].relu()


@register_cam("eigencam", citation="Muhammad and Yeasin 2020, Eq 1 to 3", orders=0)
def eigencam_weights(activations: Tensor, derivatives: Tensor) -> Tensor:  # noqa: ARG001
    r"""Return EigenCAM's weight of every channel: the first right singular vector.

    $$A^T = U \Sigma V^T, \qquad w = V_1$$

    with a row of $A^T$ for each location. It reads no gradient and knows no class. Deviations from
    the paper: its sign, which is not defined, is the one whose map has the larger positive sum; and
    the ReLU of the class activation map, which changes nothing where no activation is negative.
    pytorch-grad-cam subtracts each channel's mean first, which the paper does not.

    Args:
        activations: `(N, C, P)`.
        derivatives: `(0, N, C, P)`, not read.

    Returns:
        `(N, C, 1)`; 0 for an image whose activations are all 0.

    Reference:
        Muhammad & Yeasin, "Eigen-CAM: Class Activation Map using Principal Components",
        https://arxiv.org/abs/2008.00299

    >>> activations = torch.tensor([[[0.0, 3.0], [0.0, 4.0]]])
    >>> weights = eigencam_weights(activations, activations[None][:0])
    >>> [round(weight, 4) for weight in weights.flatten().tolist()]
    [0.6, 0.8]
    """
    channels, locations = activations.shape[1:]
    # The eigenvectors of the smaller product are those of the larger one, but for a product.
    if locations < channels:
        left = torch.linalg.eigh(activations.mT @ activations).eigenvectors[..., -1:]
        vector = activations @ left
    else:
        vector = torch.linalg.eigh(activations @ activations.mT).eigenvectors[..., -1:]
    total = (vector.mT @ activations).sum(-1, keepdim=True)
    vector = torch.where(total < 0, -vector, vector)
    length = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
    weights: Tensor = vector / length.clamp_min(torch.finfo(vector.dtype).tiny)
    return weights

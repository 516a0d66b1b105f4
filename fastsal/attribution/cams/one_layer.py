"""HiResCAM, XGrad-CAM, LayerCAM and EigenCAM as Captum attribution classes."""

from __future__ import annotations

from typing import ClassVar

from fastsal.attribution.class_activation import NamedClassActivationMap


class HiResCAM(NamedClassActivationMap):
    r"""HiResCAM: the gradient times the activation, element by element.

    $$L = \mathrm{ReLU}\Big(\sum_k \frac{\partial S}{\partial A_k} \odot A_k\Big)$$

    `fastsal.cam.weights.hirescam_weights` has the deviations.

    Reference:
        Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
        convolutional neural networks", https://arxiv.org/abs/2011.08891

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten())
        >>> images = torch.tensor([[[[1.0, 2.0], [1.0, 4.0]]]])
        >>> HiResCAM(net, net[0]).attribute(images, 0).tolist()
        [[[[0.25, 0.5], [0.25, 1.0]]]]
    """

    _field_name: ClassVar[str | None] = "HiResCAM"
    _cam: ClassVar[str] = "hirescam"


class XGradCAM(NamedClassActivationMap):
    r"""XGrad-CAM: channels weighted by the activation-weighted mean of their gradient.

    $$L = \mathrm{ReLU}\Big(\sum_k A_k \sum_{ij} \frac{A_{kij}}{\sum_{ab} A_{kab}}
      \frac{\partial S}{\partial A_{kij}}\Big)$$

    `fastsal.cam.weights.xgradcam_weights` has the deviations.

    Reference:
        Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs",
        https://arxiv.org/abs/2008.02312

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten())
        >>> images = torch.tensor([[[[1.0, 2.0], [1.0, 4.0]]]])
        >>> XGradCAM(net, net[0]).attribute(images, 0).tolist()
        [[[[0.25, 0.5], [0.25, 1.0]]]]
    """

    _field_name: ClassVar[str | None] = "XGrad-CAM"
    _cam: ClassVar[str] = "xgradcam"


class LayerCAM(NamedClassActivationMap):
    r"""LayerCAM: the positive part of the gradient times the activation.

    $$L = \mathrm{ReLU}\Big(\sum_k
      \mathrm{ReLU}\Big(\frac{\partial S}{\partial A_k}\Big) \odot A_k\Big)$$

    `fastsal.cam.weights.layercam_weights` has the deviations.
    `MultiLayerCAM` fuses the maps of several layers.

    Reference:
        Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
        https://doi.org/10.1109/TIP.2021.3089943

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten())
        >>> images = torch.tensor([[[[1.0, 2.0], [1.0, 4.0]]]])
        >>> LayerCAM(net, net[0]).attribute(images, 0).tolist()
        [[[[0.25, 0.5], [0.25, 1.0]]]]
    """

    _field_name: ClassVar[str | None] = "LayerCAM"
    _cam: ClassVar[str] = "layercam"


class EigenCAM(NamedClassActivationMap):
    r"""EigenCAM: activations projected on their first right singular vector.

    $$L = \mathrm{ReLU}(A^T V_1), \qquad A^T = U \Sigma V^T$$

    `fastsal.cam.weights.eigencam_weights` has the deviations. It takes no gradient and knows no
    class: a target is checked alone.

    Reference:
        Muhammad & Yeasin, "Eigen-CAM: Class Activation Map using Principal Components",
        https://arxiv.org/abs/2008.00299

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten())
        >>> images = torch.tensor([[[[1.0, 2.0], [1.0, 4.0]]]])
        >>> EigenCAM(net, net[0]).attribute(images, 0).tolist()
        [[[[1.0, 2.0], [1.0, 4.0]]]]
    """

    _field_name: ClassVar[str | None] = "EigenCAM"
    _cam: ClassVar[str] = "eigencam"

"""Backbones in PyTorch, written by others or by hand, that take the weights of ours, for tests.

ConvNeXt, EfficientNetV2 and DenseNet are torchvision's. DINOv2 is written here with PyTorch's own
functions, after the authors' code (arXiv 2304.07193).
"""

import warnings

import numpy as np
import torch
from torch.nn import functional


def torchvision_models():
    """Return torchvision's networks.

    The wheel on PyPI is built for CUDA. Beside a CPU build of PyTorch its operators are absent; no
    network here needs them, but the import names two.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torchvision import models
        except RuntimeError:
            operators = torch.library.Library("torchvision", "DEF")
            operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torchvision_models.operators = operators  # they live as long as their library
            from torchvision import models
    return models


def draw(layers, rng):
    """Draw weights that neither fade nor explode, for layers of Keras."""
    for layer in layers:
        drawn = []
        for weight in layer.weights:
            shape, name = tuple(weight.shape), weight.path.split("/")[-1]
            if name in ("gamma", "moving_variance"):
                values = rng.uniform(0.5, 1.5, shape)
            elif len(shape) == 1:
                values = rng.normal(0, 0.2, shape)
            else:
                # of a depthwise convolution, each channel reads itself alone
                depthwise = type(layer).__name__ == "DepthwiseConv2D"
                inputs = np.prod(shape[:2] if depthwise else shape[:-1])
                values = rng.normal(0, np.sqrt(1 / inputs), shape)
            drawn.append(values.astype("float32"))
        layer.set_weights(drawn)


def carry(layers, network):
    """Copy the weights of Keras' layers into a network of PyTorch, both in their own order."""
    targets = [*modules_with_weights(network)]
    assert len(targets) == len(layers), (len(targets), len(layers))
    for layer, target in zip(layers, targets, strict=True):
        kind, values = type(layer).__name__, [torch.tensor(w) for w in layer.get_weights()]
        if isinstance(target, torch.nn.Parameter):
            target.data.copy_(values[0].reshape(target.shape))
            continue
        names = ["weight", "bias", "running_mean", "running_var"][: len(values)]
        if kind == "DepthwiseConv2D":
            values[0] = values[0].permute(2, 3, 0, 1)
        elif values[0].ndim == 4:
            values[0] = values[0].permute(3, 2, 0, 1)
        elif values[0].ndim == 2:
            values[0] = values[0].T
        for name, value in zip(names, values, strict=True):
            getattr(target, name).data.copy_(value)


def modules_with_weights(network):
    """Yield the modules that have weights, and the scale of a ConvNeXt's block after its others."""
    for module in network.children():
        own = dict(module.named_parameters(recurse=False))
        if "layer_scale" in own:
            yield from modules_with_weights(module)
            yield own["layer_scale"]
        elif own:
            yield module
        else:
            yield from modules_with_weights(module)


def pad_as_tensorflow(network):
    """Make convolutions of stride 2 pad at the end only, as TensorFlow pads even sizes."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.stride == (2, 2):
            assert module.kernel_size == (3, 3)
            module.padding = (0, 0)
            module.register_forward_pre_hook(lambda _, x: functional.pad(x[0], (0, 1, 0, 1)))


def convnext(network):
    """Return a network with the modules whose outputs are the stages."""
    norm = network.classifier[0]  # behind the pooling there, of each cell here
    parts = torch.nn.Sequential(network.features, norm)
    return parts, [network.features[1], network.features[3], network.features[5], norm]


def efficientnet(network):
    """Return a network, padded as Keras', with the modules of the stages."""
    features = network.features
    pad_as_tensorflow(features)
    widest = [features[4][0].block[0], features[6][0].block[0]]
    return features, [features[1], features[2], *widest, features[-1]]


def densenet201(network):
    """Return a network with the modules of the stages."""
    features = network.features
    network = torch.nn.Sequential(features, torch.nn.ReLU())
    return network, [*(features[i].relu for i in (5, 7, 9)), network[1]]


FAMILIES = {"convnext": convnext, "efficientnet": efficientnet, "densenet201": densenet201}


def torchvision_stages(name, layers, pixels):
    """Return the stages of torchvision's network with the weights of Keras' layers.

    Args:
        name: the network's name, there as here.
        layers: Keras' layers with weights, in order.
        pixels: [b, rows, cols, 3], prepared as the network expects.
    """
    whole = getattr(torchvision_models(), name)()
    network, ends = FAMILIES[name.partition("_")[0]](whole)
    carry(layers, network)
    found = []
    for end in ends:
        end.register_forward_hook(lambda _, x, y: found.append(y.detach().clone()))
    with torch.no_grad():
        network.eval()(torch.tensor(pixels).permute(0, 3, 1, 2))
    return [end.permute(0, 2, 3, 1).numpy() for end in found]


def dinov2_stages(layers, heads, pixels, blocks):
    """Return the normalised patch tokens after blocks of DINOv2, [b, rows/14, cols/14, channels].

    Args:
        layers: Keras' layers with weights.
        heads: attention heads.
        pixels: [b, rows, cols, 3], standardised RGB; rows and columns are multiples of 14.
        blocks: numbers of the blocks, from 1.
    """
    weights = {layer.name: [torch.tensor(w) for w in layer.get_weights()] for layer in layers}
    kernel, bias = weights["patches"]
    x = torch.tensor(pixels).permute(0, 3, 1, 2)
    x = functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride=14)
    count, channels, rows, cols = x.shape
    token, positions = weights["tokens"]
    table = positions[1:].reshape(1, 37, 37, channels).permute(0, 3, 1, 2)
    table = functional.interpolate(table, size=(rows, cols), mode="bicubic", align_corners=False)
    x = (x + table).flatten(2).transpose(1, 2)
    x = torch.cat([(token + positions[:1]).expand(count, 1, channels), x], 1)

    def norm(values, name):
        return functional.layer_norm(values, (channels,), *weights[name], eps=1e-6)

    found = []
    for number in range(1, 13):
        name = f"block{number}"
        y = norm(x, f"{name}_norm1")
        *inward, out, out_bias = weights[f"{name}_attention"]
        query, key, value = (
            functional.linear(y, w.reshape(channels, channels).T, b.reshape(-1))
            .reshape(count, -1, heads, channels // heads)
            .transpose(1, 2)
            for w, b in zip(inward[::2], inward[1::2], strict=True)
        )
        y = functional.scaled_dot_product_attention(query, key, value)
        y = y.transpose(1, 2).reshape(count, -1, channels)
        y = functional.linear(y, out.reshape(channels, channels).T, out_bias)
        x = x + y * weights[f"{name}_scale1"][0]
        y = norm(x, f"{name}_norm2")
        kernel, bias = weights[f"{name}_hidden"]
        y = functional.gelu(functional.linear(y, kernel.T, bias))
        kernel, bias = weights[f"{name}_output"]
        x = x + functional.linear(y, kernel.T, bias) * weights[f"{name}_scale2"][0]
        if number in blocks:
            last = norm(x, "last_layernorm")[:, 1:]
            found.append(last.reshape(count, rows, cols, channels).numpy())
    return found

"""Small models for the benchmarks: `capture train FOLDER -m benchmarks/peer_models.py:one_conv`."""

from torch import nn


def one_conv(*, classes: int, channels: int, height: int, width: int) -> nn.Module:
    """One 3x3 convolution with 16 filters, ReLU, 2x2 max-pooling and a linear head.

    Takes float32 [B, channels, height, width], gives logits [B, classes].
    """
    features = 16 * ((height - 2) // 2) * ((width - 2) // 2)
    return nn.Sequential(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(features, classes))


def two_convs(*, classes: int, channels: int, height: int, width: int) -> nn.Module:
    """Two 3x3 convolutions with 16 and 32 filters, each with ReLU and 2x2 max-pooling, a layer of 64 and a linear head.

    Takes float32 [B, channels, height, width], gives logits [B, classes].
    """
    first, second = (nn.Conv2d(*filters, 3, padding=1) for filters in ((channels, 16), (16, 32)))
    features = 32 * (height // 2 // 2) * (width // 2 // 2)
    head = (nn.Flatten(), nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, classes))
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), *head)

"""The model of the benchmarks: `capture train FOLDER -m benchmarks/peer_models.py:one_conv`."""

from torch import nn


def one_conv(*, classes: int, channels: int, height: int, width: int) -> nn.Module:
    """One 3x3 convolution with 16 filters, ReLU, 2x2 max-pooling and a linear head.

    Takes float32 [B, channels, height, width], gives logits [B, classes].
    """
    features = 16 * ((height - 2) // 2) * ((width - 2) // 2)
    return nn.Sequential(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(features, classes))

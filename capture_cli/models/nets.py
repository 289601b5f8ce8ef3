"""The three built-in networks: small, quick on a CPU, and for images of any size.

All take float32 images [B, C, H, W] in [-1, 1] and return logits [B, classes]. Torch's layers draw the weights from its global
generator, so the seed set just before decides them.
"""

from itertools import chain, repeat

import torch
from torch import Tensor, nn


class Linear(nn.Sequential):
    """Logistic regression on the pixels, classes x (C H W + 1) parameters: the baseline for every other model."""

    def __init__(self, *, classes: int, channels: int, height: int, width: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(channels * height * width, classes))


class MLP(nn.Sequential):
    """Two hidden layers of 256 and 128 units over the pixels, with a little dropout."""

    def __init__(self, *, classes: int, channels: int, height: int, width: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * height * width, 256),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(128, classes),
        )


class CNN(nn.Module):
    """3x3 convolutions until the map is at most 4x4, then one linear layer over it.

    A block is convolution, max-pool, BatchNorm, ReLU: normalising after the pool takes a quarter of the work. The blocks of
    STAGES come first, then one of DEEPER for each halving that is still needed. The maps of a 28x28 image are 14, 7, 7 and 3
    pixels wide (252,000 parameters), those of a 32x32 image 16, 8, 8 and 4.

    Each axis is halved by itself and only while above SMALL pixels, so that 1x1 and 1x500 work too. On an axis above LARGE
    pixels the first convolution has a stride of 2, 4, ... and a kernel to match: an image of up to 256 pixels costs less than
    seven times one of 28x28, not eighty times.

    The linear layer sees where a feature is, not only its mean, which helps on centred images. If the last map is one pixel,
    BatchNorm needs two images in a training batch.
    """

    STAGES = ((32, True), (64, True), (128, False), (128, True))  # filters, halved: depth is cheap where the map is small
    DEEPER = (256, True)
    SMALL = 4
    LARGE = 56
    DROPOUT = 0.5

    def __init__(self, *, classes: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        stride = (self._stride(height), self._stride(width))
        sides = (-(-height // stride[0]), -(-width // stride[1]))
        blocks: list[nn.Module] = []
        for filters, halved in chain(self.STAGES, repeat(self.DEEPER)):
            if len(blocks) >= len(self.STAGES) and max(sides) <= self.SMALL:
                break
            pool = (1 + (halved and sides[0] > self.SMALL), 1 + (halved and sides[1] > self.SMALL))
            blocks.append(_block(channels, filters, stride=stride, pool=pool))
            channels, stride = filters, (1, 1)
            sides = (sides[0] // pool[0], sides[1] // pool[1])
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(self.DROPOUT), nn.Linear(channels * sides[0] * sides[1], classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to logits [B, classes]."""
        # Channels last in memory: a third faster on a CPU. Not `contiguous`, which does nothing for a single channel.
        logits: Tensor = self.head(self.features(images.to(memory_format=torch.channels_last)))
        return logits

    @classmethod
    def _stride(cls, side: int) -> int:
        stride = 1
        while side > stride * cls.LARGE:
            stride *= 2
        return stride


def _block(inputs: int, filters: int, *, stride: tuple[int, int], pool: tuple[int, int]) -> nn.Sequential:
    kernel = (2 * stride[0] + 1, 2 * stride[1] + 1)
    return nn.Sequential(
        nn.Conv2d(inputs, filters, kernel, stride, padding=stride, bias=False),
        nn.Identity() if pool == (1, 1) else nn.MaxPool2d(pool),
        nn.BatchNorm2d(filters),
        nn.ReLU(inplace=True),
    )

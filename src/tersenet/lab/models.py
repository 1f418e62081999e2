"""Reference networks by name, with the tensor names of their published checkpoints.

The residual networks follow He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2): depth 6n + 2, option A
shortcuts. The LeNets follow LeCun et al. 1998 in the variants of the compression literature; AlexNet and VGG are cut to
32x32 images.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a parameter-free shortcut (subsample, pad channels with zeros)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.pad = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad or self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet for 32x32 RGB images with `blocks` blocks in each of three stages of 16, 32, 64 channels.

    **Shapes**: `[n, 3, 32, 32]` -> `[n, classes]`.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class LeNet300(nn.Module):
    """LeNet-300-100, fully connected. **Shapes**: `[n, 1, 28, 28]` or `[n, 784]` -> `[n, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe (20-50-500), no activation after the convolutions.

    **Shapes**: `[n, 1, 28, 28]` -> `[n, 10]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv2(F.max_pool2d(self.conv1(x), 2)), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits


class AlexNetCifar(nn.Module):
    """AlexNet in the size of 32x32 images: five convolutions, three linear layers (after Krizhevsky et al. 2012).

    **Shapes**: `[n, 3, 32, 32]` -> `[n, classes]`.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 192, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(1024, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class Vgg(nn.Module):
    """3x3 convolutions with batch norm and ReLU, numbers of channels by layer, "M" for max pooling; then linear layers.

    `hidden` are the widths between the last convolution and the classes (Simonyan and Zisserman 2015, for 32x32
    images).

    **Shapes**: `[n, 3, 32, 32]` -> `[n, classes]`.
    """

    def __init__(self, layout: tuple[int | str, ...], hidden: tuple[int, ...], classes: int = 10) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        channels, side = 3, 32
        for width in layout:
            if isinstance(width, str):
                parts.append(nn.MaxPool2d(2))
                side //= 2
            else:
                parts += [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*parts)
        widths = [channels * side * side, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.classifier = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


VGG7 = (128, 128, "M", 256, 256, "M", 512, 512, "M")
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class DigitsNet(nn.Module):
    """A small convolutional network with batch norm for scikit-learn's 8x8 digits.

    **Shapes**: `[n, 1, 8, 8]` -> `[n, 10]`.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.linear = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: CifarResNet(3),
    "resnet32": lambda: CifarResNet(5),
    "resnet44": lambda: CifarResNet(7),
    "resnet56": lambda: CifarResNet(9),
    "lenet300": LeNet300,
    "lenet5": LeNet5,
    "alexnet": AlexNetCifar,
    "vgg7": lambda: Vgg(VGG7, (1024,)),
    "vgg16": lambda: Vgg(VGG16, (512,)),
    "digits": DigitsNet,
}


def build(name: str) -> nn.Module:
    """A reference network by name, with random weights. **Raises** `UsageError` listing the names."""
    if name not in MODELS:
        raise UsageError(f"no reference network {name!r}; they are {', '.join(MODELS)}, or give FILE.py:FUNCTION")
    return MODELS[name]()

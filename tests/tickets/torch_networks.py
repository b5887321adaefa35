"""Networks with PyTorch's modules and usual names, written from the paper's tables."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[peer]'")
nn = torch.nn


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Convolutions of (kernel, outputs, stride), each normalized, and a shortcut."""

    def __init__(self, inputs, convs):
        super().__init__()
        before, stride = inputs, max(s for _, _, s in convs)
        for index, (kernel, outputs, own_stride) in enumerate(convs, 1):
            setattr(self, f"conv{index}", conv(before, outputs, kernel, own_stride))
            setattr(self, f"bn{index}", nn.BatchNorm2d(outputs))
            before = outputs
        self.convs, self.outputs, self.downsample = len(convs), before, None
        if stride != 1 or inputs != before:
            self.downsample = nn.Sequential(
                conv(inputs, before, 1, stride), nn.BatchNorm2d(before)
            )

    def forward(self, x):
        y = x
        for index in range(1, self.convs + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = torch.relu(y) if index < self.convs else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def basic(channels, stride):
    return (3, channels, stride), (3, channels, 1)


def bottleneck(channels, stride, inner=1):
    middle = inner * channels
    return (1, middle, 1), (3, middle, stride), (1, 4 * channels, 1)


def wide(channels, stride):
    return bottleneck(channels, stride, inner=2)


class ResNet(nn.Module):
    def __init__(self, stages, block, classes, *, stem, channels, imagenet=False):
        super().__init__()
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv1, self.bn1 = conv(3, stem, kernel, stride), nn.BatchNorm2d(stem)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        before, self.stages = stem, len(stages)
        for stage, count in enumerate(stages):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(before, block(channels * 2**stage, stride)))
                before = blocks[-1].outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


class Plain(nn.Module):
    """Stages of convolutions with pools between or after them, then linear layers."""

    def __init__(self, stages, linear, *, normalized=False, bias=False, channels=3):
        """Normalized, it is a VGG; else one of Conv2 to Conv8."""
        super().__init__()
        layers, before = [], channels
        for index, stage in enumerate(stages):
            for outputs in stage:
                layers.append(nn.Conv2d(before, outputs, 3, padding=1, bias=bias))
                if normalized:
                    layers.append(nn.BatchNorm2d(outputs))
                layers.append(nn.ReLU())
                before = outputs
            last = normalized and index == len(stages) - 1
            layers.append(nn.AvgPool2d(2) if last else nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        layers = []
        for inputs, outputs in itertools.pairwise(linear):
            layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
        self.classifier = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

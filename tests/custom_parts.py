"""Files as users write them, with a custom network, operation, metric, optimizer, schedule and annotation format."""

from pathlib import Path

NETWORK = '''
import torch
from torch import nn


class TinyNet(nn.Module):
    """Two convolutions."""

    def __init__(self, in_channels=3, width=8):
        super().__init__()
        self.num_features = width
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())

    def forward(self, images):
        return self.deep(self.stem(images)).mean((2, 3))


class MapNet(TinyNet):
    """Returns the feature map, and has its own normalization."""

    mean, std = [0.25], [0.5]

    def forward(self, images):
        return self.deep(self.stem(images))


class SizedNet(nn.Module):
    """A linear map of all pixels."""

    def __init__(self, in_channels, image_size):
        super().__init__()
        self.num_features = 4
        self.linear = nn.Linear(in_channels * image_size[0] * image_size[1], 4)

    def forward(self, images):
        return self.linear(images.flatten(1))


class CountingNet(TinyNet):
    """Counts its calls, which untraced code may do."""

    def __init__(self, in_channels=3):
        super().__init__(in_channels)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        self.seen += 1
        if float(images.sum()) > 1e9:
            raise ValueError("no image")
        return super().forward(images)


class NamelessNet(TinyNet):
    def __init__(self, in_channels=3):
        super().__init__(in_channels)
        del self.num_features


class WrongNet(TinyNet):
    def forward(self, images):
        return super().forward(images)[:, :3]


class DemandingNet(TinyNet):
    def __init__(self, depth):
        super().__init__()


class LazyNet(TinyNet):
    def __init__(self, in_channels=3):
        super().__init__(in_channels)
        self.deep = nn.LazyConv2d(8, 3)


class StillNet(nn.Module):
    num_features = 8


class HelperOnly:
    pass
'''
OPERATION = '''
from lit_cv.augment import Operation


class Invert(Operation):
    """Inverts images."""

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def _draw(self, n, size):
        return {}

    def _transform(self, images, params):
        return 255 - images


class Half(Operation):
    """Lacks `_draw`."""

    def _transform(self, images, params):
        return images
'''
METRIC = '''
import torch
from torchmetrics import Metric


class TopTwo(Metric):
    """Share of the images whose class is among the two most probable."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("right", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, probabilities, target):
        assert (target >= 0).all()
        self.right += (probabilities.topk(2).indices == target[:, None]).any(1).sum()
        self.count += len(target)

    def compute(self):
        return self.right / self.count
'''
OPTIMIZER = '''
import torch
from torch.optim import SGD


class Slow(SGD):
    """SGD with a damped momentum."""

    def __init__(self, params, lr, momentum=0.0):
        super().__init__(params, lr=lr, momentum=momentum, dampening=0.5)


def steps(progress):
    return 1.0 if progress < 0.5 else 0.1


def backwards(steps):
    return 1.0
'''
FORMAT = '''
from lit_cv.annotations import AnnotatedImage, AnnotatedObject, AnnotationSet
from lit_cv.annotations.annotation_format import AnnotationFormat, Sign


def read(source):
    """Read a text file of the lines `image left top right bottom class`."""
    images, classes = {}, []
    for line in (source.root / "boxes.txt").read_text().splitlines():
        name, *box, kind = line.split()
        if kind not in classes:
            classes.append(kind)
        image = images.setdefault(name, AnnotatedImage(name, 0, 0))
        image.objects.append(AnnotatedObject(classes.index(kind), tuple(map(float, box))))
    return {"all": AnnotationSet(source.root / "images", classes, list(images.values()))}


LINES = AnnotationFormat("lines", lambda root: Sign.SURE if (root / "boxes.txt").is_file() else Sign.NONE, read)
'''
METRIC += '''

class Confusion(TopTwo):
    """Share of the images whose class is not among the two most probable."""

    higher_is_better = False

    def compute(self):
        return 1 - super().compute()
'''
FILES = {"mynet": NETWORK, "sol": OPERATION, "scores": METRIC, "mine": OPTIMIZER, "lines": FORMAT}


def write_files(folder: Path) -> None:
    """Write `mynet.py`, `sol.py`, `scores.py`, `mine.py` and `lines.py` to a folder."""
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)

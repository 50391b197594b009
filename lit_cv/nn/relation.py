"""The relation head, which scores how well a query image matches a class."""

import torch
from torch import Tensor, nn

__all__ = ["RelationHead"]


class RelationHead(nn.Module):
    """A small network that scores pairs of a class and a query by their feature maps (Sung et al. 2018, section 3.4).

    The two maps are concatenated along the channels and pass through two blocks of 3x3 convolution, batch norm, ReLU
    and 2x2 max-pooling, then two linear layers. The first convolution is linear, so it is computed once per class and
    once per query instead of once per pair, and the results are added: the same function at a fraction of the cost.

    The activation between the linear layers is a leaky ReLU instead of the paper's ReLU. With ReLU, for some seeds,
    those of the eight units that indicate a match died within 200 steps. All classes that may match a query then get
    the same score, and more support images make it worse.

    Args:
        channels: Channels of a feature map.
        size: Height and width of the feature maps.
        width: Channels of the two blocks.
        hidden: Number of units between the two linear layers.

    Shapes:
        classes (B, N, C, h, w), queries (B, Q, C, h, w) -> logits of the relation scores (B, Q, N).

    Example:
        >>> head = RelationHead(8, (2, 2), width=4)
        >>> head(torch.rand(3, 5, 8, 2, 2), torch.rand(3, 7, 8, 2, 2)).shape
        torch.Size([3, 7, 5])
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int = 64, hidden: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1, bias=False)
        # Sizes round up, so that a side never becomes 0. ReLU commutes with the pooling and is cheaper after it.
        self.rest = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        height, wide = (-(-side // 4) for side in size)
        self.score = nn.Sequential(nn.Linear(width * height * wide, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, 1))

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Return how well each query matches each class, before the sigmoid."""
        (episodes, way), count = classes.shape[:2], queries.shape[1]
        of_class, of_query = torch.split(self.first.weight, self.channels, 1)
        a = nn.functional.conv2d(classes.flatten(0, 1), of_class, padding=1)
        b = nn.functional.conv2d(queries.flatten(0, 1), of_query, padding=1)
        sums = torch.unflatten(a, 0, (episodes, 1, way)) + torch.unflatten(b, 0, (episodes, count, 1))
        pairs = sums.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.score(self.rest(pairs))
        return scores.view(episodes, count, way)

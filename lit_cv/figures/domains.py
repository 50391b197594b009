"""A figure of the embeddings of two domains before and after adaptation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_cv.figures.canvas import BLUE, GRAY, INK, ORANGE, legend_name, literal_text, new_figure, style_axes
from lit_cv.figures.images import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DomainMap", "domain_figure", "map_embedding"]

_NAMED = 20  # maximum number of classes in a legend


class DomainMap(NamedTuple):
    """A two-dimensional map of the images of both domains.

    Attributes:
        title: Title of the map.
        places: (N, 2), coordinates.
        domains: (N,) 0 for the source, 1 for the target.
        labels: (N,) classes, -1 if unknown.
    """

    title: str
    places: NDArray[np.float64]
    domains: NDArray[np.int64]
    labels: NDArray[np.int64]


def map_embedding(embedding: NDArray[np.float32], method: Literal["tsne", "pca"]) -> NDArray[np.float64]:
    """Project an embedding to two dimensions, deterministically.

    Args:
        embedding: (N, D), N at least 4.
        method: `tsne` preserves neighborhoods (van der Maaten and Hinton 2008), `pca` the directions of largest
            variance.
    """
    from sklearn.decomposition import PCA

    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(embedding) - 1) / 3)
        model: Any = TSNE(perplexity=perplexity, init="pca", random_state=0)
    else:
        model = PCA(2, svd_solver="full")
    return np.asarray(model.fit_transform(np.nan_to_num(embedding)), dtype=np.float64)


@literal_text
def domain_figure(maps: Sequence[DomainMap], class_names: Sequence[str] | None = None, heading: str = "") -> "Figure":
    """Draw each map twice, colored by domain and by class.

    Args:
        maps: The maps, one per row.
        class_names: Names of the classes.
        heading: Title of the figure.
    """
    figure = new_figure(9.6, 4.2 * len(maps) + 0.3, constrained=True)
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    for row, shown in enumerate(maps):
        by_domain = figure.add_subplot(len(maps), 2, 2 * row + 1)
        for domain, name, color in ((0, "source", BLUE), (1, "target", ORANGE)):
            _points(by_domain, shown, shown.domains == domain, color, name)
        _finish(by_domain, f"{shown.title}, by domain")
        by_class = figure.add_subplot(len(maps), 2, 2 * row + 2)
        _by_class(by_class, shown, class_names)
        _finish(by_class, f"{shown.title}, by class (rings: source, dots: target)")
    return figure


def _by_class(axes: "Axes", shown: DomainMap, class_names: Sequence[str] | None) -> None:
    from matplotlib import colormaps

    classes = int(max(shown.labels.max() + 1, len(class_names or ()), 1))
    palette = colormaps["tab10" if classes <= 10 else "tab20" if classes <= 20 else "turbo"]
    _points(axes, shown, shown.labels < 0, GRAY, "unlabeled")
    for label in range(classes):
        color = palette(label if classes <= 20 else label / (classes - 1))
        name = short_name(class_names[label] if class_names else label)
        chosen = shown.labels == label
        _points(axes, shown, chosen & (shown.domains == 1), color, name if classes <= _NAMED else "")
        _points(axes, shown, chosen & (shown.domains == 0), color, "", ring=True)


def _points(
    axes: "Axes", shown: DomainMap, chosen: NDArray[np.bool_], color: Any, label: str, ring: bool = False
) -> None:
    x, y = shown.places[chosen].T
    if len(x) == 0:
        return
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": [color]} if ring else {"color": [color]}
    axes.scatter(
        x,
        y,
        s=14 if ring else 9,
        linewidths=0.8 if ring else 0,
        alpha=0.75,
        label=legend_name(label) if label else None,
        **style,
    )


def _finish(axes: "Axes", title: str) -> None:
    style_axes(axes, title)
    axes.set_xticks([])
    axes.set_yticks([])
    if names := axes.get_legend_handles_labels()[1]:
        columns = min(5, int(4.6 / (0.35 + 0.065 * max(map(len, names)))))  # of panels of 4.6 inches
        style: dict[str, Any] = {"fontsize": 7, "frameon": False, "markerscale": 1.6, "columnspacing": 1.0}
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0), handletextpad=0.2, ncols=columns, **style)

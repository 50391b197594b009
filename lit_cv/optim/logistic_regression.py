"""Logistic regression on kept features, solved rather than trained: there is no learning rate to choose. Pure torch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.optim.batched_lbfgs import minimize_batch

__all__ = [
    "LinearClassifier",
    "LogisticRegression",
    "StrengthSearch",
    "fit_logistic_regression",
    "search_strength",
]

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-8, 5))
"""Strengths that are tried by default, relative to the features' scale: 1e-4 to 1e2 by half decades."""

_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Factors of the logits, of which the best undoes how much a penalty shrinks them."""

_EQUAL = 1.0025  # ratio of losses that count as equal, so that the stronger penalty is chosen
_ENOUGH = 1500  # images, below which one division into folds says too little
_USUAL = 0.01  # the strength where nothing can be held out
_BLOCK = 1 << 25  # logits that are held at once


class LinearClassifier(NamedTuple):
    """Weights of a linear classifier: `features @ weight.T + bias` are its logits.

    Attributes:
        weight: (K, D).
        bias: (K,).
    """

    weight: Tensor
    bias: Tensor


class StrengthSearch(NamedTuple):
    """Result of the cross-validation.

    Attributes:
        strength: The strength chosen.
        scale: Factor of its logits for which the loss of the images held out is smallest.
        losses: That loss, by strength in the order tried; empty if no image can be held out.
        accuracies: Share of those images (of their labels, where there are several) predicted correctly, likewise.
    """

    strength: float
    scale: float
    losses: dict[float, float]
    accuracies: dict[float, float]


def fit_logistic_regression(
    features: Tensor,
    target: Tensor,
    strength: float = 1.0,
    num_classes: int | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 500,
    weight: Tensor | None = None,
) -> LinearClassifier:
    """Return the minimum of `strength * sum of losses + ||weight||^2 / 2`, as scikit-learn's `LogisticRegression`.

    Args:
        features: (N, D) floats.
        target: (N,) int64 or (N, K), see `LogisticRegression`.
        strength: Weight of the images against the penalty (`C` of scikit-learn): smaller regularizes more.
        num_classes: K for targets (N,); `None` takes the greatest label.
        tolerance: Gradient at which the search ends, relative to that at its start.
        max_iterations: Most steps.
        weight: Weights of the losses, see `LogisticRegression`.

    Raises:
        ValueError: If shapes do not fit, `strength` is not positive, or a feature is not finite.

    Example:
        >>> classifier = fit_logistic_regression(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))
        >>> (torch.tensor([[2.0]]) @ classifier.weight.T + classifier.bias).argmax(1)
        tensor([1])
    """
    return LogisticRegression(features, target, num_classes, weight).fit(strength, tolerance, max_iterations)


def search_strength(
    features: Tensor,
    target: Tensor,
    num_classes: int | None = None,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    weight: Tensor | None = None,
) -> StrengthSearch:
    """Choose the strength of `fit_logistic_regression` by cross-validation, see `LogisticRegression.search_strength`.

    Args:
        features: (N, D) floats.
        target: (N,) int64 or (N, K), see `LogisticRegression`.
        num_classes: K for targets (N,); `None` takes the greatest label.
        strengths: What is tried, for features of variance 1: divided by their mean variance.
        folds: Number of folds; fewer where the classes are smaller.
        weight: Weights of the losses, see `LogisticRegression`.
    """
    return LogisticRegression(features, target, num_classes, weight).search_strength(strengths, folds)


class LogisticRegression:
    """L2-regularized logistic regression on fixed features, for one label an image or several.

    The loss is convex, so that the result depends on neither a start nor a seed. It is found by L-BFGS along
    the principal axes of the features, which starts from the curvature of the loss along each; the axes are
    computed once for the search of a strength and the fit.

    Args:
        features: (N, D) floats.
        target: (N,) int64, one class each, for the cross-entropy of a softmax; or (N, K) in [0, 1], any number of
            labels each, for K independent binary cross-entropies, in which NaN is unknown. A class of which all known
            labels are equal gets the bias of half a label more of each kind, and no weights.
        num_classes: K for targets (N,); `None` takes the greatest label.
        weight: Weights of the losses, (N,) for one label an image and (N, K) for several; `None` for equal ones.

    Raises:
        ValueError: If shapes do not fit, or a feature is not finite.

    Example:
        >>> regression = LogisticRegression(torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [1.0]]))
        >>> regression.fit(1.0).weight > 0
        tensor([[True]])
    """

    def __init__(
        self, features: Tensor, target: Tensor, num_classes: int | None = None, weight: Tensor | None = None
    ) -> None:
        if features.ndim != 2 or len(features) != len(target) or not len(features):
            raise ValueError(f"features {tuple(features.shape)} for {len(target)} targets: give (N, D) and as many.")
        features = features if features.dtype == torch.float64 else features.float()
        if not features.isfinite().all():
            raise ValueError("features with NaN or infinity: no classifier can be fitted to them.")
        self._exclusive = target.ndim == 1
        self._strata = target.cpu() if self._exclusive else _rarest_labels(target.cpu())
        one_hot = _one_hot(target, num_classes).to(features)
        weight = features.new_ones(target.shape) if weight is None else weight.to(features)
        if weight.shape != target.shape:
            raise ValueError(f"weight {tuple(weight.shape)} for target {tuple(target.shape)}: give one for each label.")
        if self._exclusive:
            self._target, self._weight = one_hot, weight
        else:
            self._target, self._weight = _known_labels(one_hot, weight)
        self._mean = features.mean(0)
        centered = features - self._mean
        self._basis = _principal_axes(centered)
        rotated = centered @ self._basis
        self._rotated = torch.cat([rotated, rotated.new_ones(len(rotated), 1)], dim=1)
        self._variance = max(float(centered.square().mean()), 1e-12)
        self._penalized = self._rotated.new_ones(self._rotated.shape[1])
        self._penalized[-1] = 0

    def fit(self, strength: float, tolerance: float = 1e-5, max_iterations: int = 500) -> LinearClassifier:
        """Return the classifier that minimizes `strength * sum of losses + ||weight||^2 / 2`.

        Args:
            strength: Weight of the images against the penalty (`C` of scikit-learn): smaller regularizes more.
            tolerance: Gradient at which the search ends, relative to that at its start.
            max_iterations: Most steps.

        Raises:
            ValueError: If `strength` is not positive.
        """
        if not strength > 0:
            raise ValueError(f"strength={strength}: give a positive number.")
        everything = self._rotated.new_ones(1, len(self._rotated))
        solution = self._solve(strength, everything, None, tolerance, max_iterations).flatten(0, 1)
        weight = solution[:, :-1] @ self._basis.T
        return LinearClassifier(weight, solution[:, -1] - weight @ self._mean)

    def search_strength(self, strengths: Sequence[float] = STRENGTHS, folds: int = 5) -> StrengthSearch:
        """Choose the strength by cross-validation.

        Chosen is the strength with the smallest loss of the images held out once their logits are scaled: a strong
        penalty shrinks logits, which makes the loss large but no prediction wrong. Of losses within 0.25 % of each
        other, the strongest penalty's counts.
        Each class is divided evenly over the folds, in an order that does not depend on the features; where an image
        has several labels, by the rarest of them. Small sets are divided anew up to five times. A class of a single
        image is never held out. The strengths are tried from the strongest regularization on, each starting where the
        one before ended, until the loss has risen twice.

        Args:
            strengths: What is tried, for features of variance 1: divided by their mean variance.
            folds: Number of folds; fewer where the classes are smaller.
        """
        tried = [strength / self._variance for strength in sorted(strengths)]
        divisions = max(1, min(5, _ENOUGH // len(self._rotated)))
        held = torch.cat([_folds(self._strata, folds, seed) for seed in range(divisions)]).to(self._rotated)
        if not len(held):
            return StrengthSearch(min(tried, key=lambda value: abs(value * self._variance - _USUAL)), 1.0, {}, {})
        results: list[tuple[float, float, float]] = []
        start: Tensor | None = None
        for strength in tried:
            start = self._solve(strength, 1 - held, start, tolerance=1e-4, max_iterations=200)
            results.append(self._judge(start, held))
            last = [loss for loss, _, _ in results[-3:]]
            if len(last) == 3 and last[0] < last[1] < last[2]:
                break
        losses, scales, accuracies = zip(*results, strict=True)
        best = next(position for position, loss in enumerate(losses) if loss <= min(losses) * _EQUAL)
        by_strength = (dict(zip(tried, values, strict=False)) for values in (losses, accuracies))
        return StrengthSearch(tried[best], scales[best], *by_strength)

    # Solutions are (P, K, R + 1) for P sets of images, or (P * K, 1, R + 1) where the labels are independent: rotated
    # weights, and behind them the bias.

    def _solve(
        self, strength: float, sets: Tensor, start: Tensor | None, tolerance: float, max_iterations: int
    ) -> Tensor:
        """Return the solution of each set.

        Args:
            strength: Weight of the losses against the penalty.
            sets: (P, N), 1 for the images of each set and 0 for the others.
            start: Where to start; `None` starts at 0.
            tolerance: Gradient at which a search ends, relative to that at 0.
            max_iterations: Most steps.
        """

        def evaluate(solution: Tensor) -> tuple[Tensor, Tensor]:
            return self._evaluate(solution, strength, sets)

        def curvature(solution: Tensor) -> Tensor:
            return self._curvature(solution, strength, sets)

        classes = self._target.shape[1]
        shape = (len(sets), classes) if self._exclusive else (len(sets) * classes, 1)
        zero = self._rotated.new_zeros(*shape, self._rotated.shape[1])
        limit = evaluate(zero)[1].flatten(1).norm(dim=1) * tolerance
        return minimize_batch(evaluate, curvature, zero if start is None else start, limit, max_iterations)

    def _judge(self, solutions: Tensor, held: Tensor) -> tuple[float, float, float]:
        """Return the smallest mean loss of images in the sets (P, N) that hold them out, its scale and the accuracy."""
        best, scale = float("inf"), 1.0
        for factor in _SCALES:
            loss = self._mean_loss(factor * solutions, held)
            if loss >= best:
                break
            best, scale = loss, factor
        right = total = 0.0
        for rows, logits in self._logits(solutions, len(held)):
            weight, target = self._weights(rows, held), self._target[rows, None]
            correct = logits.argmax(2) == target.argmax(2) if self._exclusive else (logits > 0) == (target > 0.5)
            right += float((correct * weight).sum())
            total += float(weight.sum())
        return best, scale, right / max(total, 1e-12)

    def _mean_loss(self, solutions: Tensor, held: Tensor) -> float:
        """Return the mean loss of the images in the sets (P, N) that hold them out."""
        total = 0.0
        for rows, logits in self._logits(solutions, len(held)):
            total += float((self._loss(logits, rows)[0] * self._weights(rows, held)).sum())
        return total / float(held.sum())

    def _evaluate(self, solutions: Tensor, strength: float, sets: Tensor) -> tuple[Tensor, Tensor]:
        value = (solutions.square() * self._penalized).sum((1, 2), dtype=torch.float64) / 2
        gradient = solutions * self._penalized
        for rows, logits in self._logits(solutions, len(sets)):
            loss, slope, _ = self._loss(logits, rows)
            weight = strength * self._weights(rows, sets)
            value += (loss * weight).sum(0, dtype=torch.float64).flatten()
            gradient += self._along_axes(slope * weight.view(*weight.shape[:2], -1), rows).view_as(gradient)
        return value, gradient

    def _curvature(self, solutions: Tensor, strength: float, sets: Tensor) -> Tensor:
        """Return the diagonal of the second derivative, in the shape of the solutions."""
        result = self._penalized.expand_as(solutions).clone()
        for rows, logits in self._logits(solutions, len(sets)):
            weight = strength * self._weights(rows, sets)
            bend = self._loss(logits, rows)[2] * weight.view(*weight.shape[:2], -1)
            result += self._along_axes(bend, rows, squared=True).view_as(result)
        return result

    def _along_axes(self, values: Tensor, rows: slice, squared: bool = False) -> Tensor:
        """Return the sums of values (n, P, K) times the features of some rows or their squares, (P * K, R + 1)."""
        features = self._rotated[rows].square() if squared else self._rotated[rows]
        return values.flatten(1).T.contiguous() @ features

    def _logits(self, solutions: Tensor, sets: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits of all images, (n, P, K) of some rows at a time."""
        flat = solutions.flatten(0, 1)
        step = max(1, _BLOCK // len(flat))
        for first in range(0, len(self._rotated), step):
            rows = slice(first, first + step)
            yield rows, F.linear(self._rotated[rows], flat).view(-1, sets, self._target.shape[1])

    def _weights(self, rows: slice, sets: Tensor) -> Tensor:
        """Return the weight of each loss in each set, (n, P), or (n, P, K) of independent labels."""
        inside, weight = sets[:, rows].T, self._weight[rows, None]
        return inside * weight if self._exclusive else inside[..., None] * weight

    def _loss(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses (n, P) or (n, P, K), their slopes and their curvatures (n, P, K) for logits (n, P, K)."""
        target = self._target[rows, None]
        if self._exclusive:
            logged = logits.log_softmax(2)
            probability = logged.exp()
            return -(logged * target).sum(2), probability - target, probability * (1 - probability)
        loss = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
        probability = logits.sigmoid()
        return loss, probability - target, probability * (1 - probability)


def _one_hot(target: Tensor, num_classes: int | None) -> Tensor:
    if target.ndim == 2:
        return target.float()
    if target.ndim != 1 or target.is_floating_point():
        raise ValueError(f"target {target.dtype} {tuple(target.shape)}: give (N,) integers or (N, K) in [0, 1].")
    return F.one_hot(target.long(), num_classes or -1).float()


def _known_labels(target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels (N, K) without NaN, smoothed where a class has one kind alone, and their weights, 0 if unknown."""
    known = ~target.isnan()
    target = torch.where(known, target, 0)
    positive, total = target.sum(0), known.sum(0)
    constant = (positive == 0) | (positive == total)
    return torch.where(constant, (positive + 0.5) / (total + 1), target), torch.where(known, weight, 0)


def _rarest_labels(target: Tensor) -> Tensor:
    """Return of each image (N,) the rarest of what is known of it: one of K classes that it has, or K that it lacks."""
    has = torch.cat([target > 0.5, target <= 0.5], dim=1)
    counts = torch.where(has, has.sum(0), len(target) + 1)
    return counts.argmin(1)


def _folds(strata: Tensor, folds: int, seed: int) -> Tensor:
    """Return which images each fold holds out, (folds, N) of 0 and 1; (0, N) where no class has two images."""
    order = torch.randperm(len(strata), generator=torch.Generator().manual_seed(seed))
    order = order[strata[order].argsort(stable=True)]  # class after class, shuffled within each
    counts = strata.bincount()
    order = order[counts[strata[order]] > 1]
    folds = min(folds, int(counts.max())) if len(order) else 0
    held = torch.zeros(folds, len(strata))
    if folds:
        held[torch.arange(len(order)) % folds, order] = 1
    return held


def _principal_axes(centered: Tensor) -> Tensor:
    """Return an orthonormal basis (D, R) of what features (N, D) of mean 0 span, by their variance along it."""
    if len(centered) < centered.shape[1]:  # the axes of few images are found among them, not among the features
        values, vectors = torch.linalg.eigh((centered @ centered.T).double())
        kept = values > values[-1] * 1e-10
        basis: Tensor = torch.linalg.qr(centered.T.double() @ vectors[:, kept] / values[kept].sqrt())[0]
    else:
        values, vectors = torch.linalg.eigh((centered.T @ centered).double())
        basis = vectors[:, values > values[-1] * 1e-10]
    return basis.to(centered.dtype)

"""Logistic regression on precomputed features, solved by L-BFGS without a learning rate. Pure torch."""

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
"""Default candidates of the strength, relative to the features' variance: 1e-4 to 1e2 in half decades."""

_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Candidate factors of the logits; the best one compensates for the shrinkage by the penalty."""

_EQUAL = 1.0025  # ratio of losses that count as equal, so that the stronger penalty is chosen
_ENOUGH = 1500  # images; smaller sets are divided into folds several times
_DEFAULT_STRENGTH = 0.01  # used if no image can be held out
_BLOCK = 1 << 25  # number of logits held in memory at once


class LinearClassifier(NamedTuple):
    """Weights of a linear classifier with the logits `features @ weight.T + bias`.

    Attributes:
        weight: (K, D).
        bias: (K,).
    """

    weight: Tensor
    bias: Tensor


class StrengthSearch(NamedTuple):
    """Result of the cross-validation.

    Attributes:
        strength: The selected strength.
        scale: Factor of its logits that minimizes the loss of the held-out images.
        losses: Smallest held-out loss by strength, in the order tried; empty if no image can be held out.
        accuracies: Held-out accuracy (over all labels in the multi-label case) by strength, likewise.
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
    """Minimize `strength * sum of losses + ||weight||^2 / 2`, as in scikit-learn's `LogisticRegression`.

    Args:
        features: (N, D) floats.
        target: (N,) int64 or (N, K), see `LogisticRegression`.
        strength: Weight of the losses relative to the penalty (`C` of scikit-learn); smaller regularizes more.
        num_classes: K for targets (N,); `None` infers it from the largest label.
        tolerance: Gradient norm at which the search stops, relative to the initial one.
        max_iterations: Maximum number of steps.
        weight: Weights of the losses, see `LogisticRegression`.

    Raises:
        ValueError: If shapes do not match, `strength` is not positive, or a feature is not finite.

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
        num_classes: K for targets (N,); `None` infers it from the largest label.
        strengths: Candidates for features of variance 1; they are divided by the mean variance.
        folds: Number of folds; fewer for small classes.
        weight: Weights of the losses, see `LogisticRegression`.
    """
    return LogisticRegression(features, target, num_classes, weight).search_strength(strengths, folds)


class LogisticRegression:
    """L2-regularized logistic regression on fixed features, with one or several labels per image.

    The loss is convex, so the result does not depend on the starting point or a seed. It is minimized by L-BFGS along
    the principal axes of the features, with the curvature of the loss along each as the initial Hessian. The axes are
    computed once for the search and the fit.

    Args:
        features: (N, D) floats.
        target: (N,) int64, one class per image, for the softmax cross-entropy; or (N, K) in [0, 1], any number of
            labels per image, for K independent binary cross-entropies, with NaN for unknown labels. A class whose known
            labels are all equal gets the bias for half a positive and half a negative label more, and no weights.
        num_classes: K for targets (N,); `None` infers it from the largest label.
        weight: Weights of the losses, (N,) for one label per image or (N, K) for several; `None` for equal weights.

    Raises:
        ValueError: If shapes do not match, or a feature is not finite.

    Example:
        >>> regression = LogisticRegression(torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [1.0]]))
        >>> regression.fit(1.0).weight > 0
        tensor([[True]])
    """

    def __init__(
        self, features: Tensor, target: Tensor, num_classes: int | None = None, weight: Tensor | None = None
    ) -> None:
        if features.ndim != 2 or len(features) != len(target) or not len(features):
            raise ValueError(f"features {tuple(features.shape)} for {len(target)} targets: give (N, D) and N targets.")
        features = features if features.dtype == torch.float64 else features.float()
        if not features.isfinite().all():
            raise ValueError("the features contain NaN or infinity: no classifier can be fitted to them.")
        self._exclusive = target.ndim == 1
        self._strata = target.cpu() if self._exclusive else _rarest_labels(target.cpu())
        one_hot = _one_hot(target, num_classes).to(features)
        weight = features.new_ones(target.shape) if weight is None else weight.to(features)
        if weight.shape != target.shape:
            raise ValueError(f"weight {tuple(weight.shape)} for target {tuple(target.shape)}: give one per label.")
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
            strength: Weight of the losses relative to the penalty (`C` of scikit-learn); smaller regularizes more.
            tolerance: Gradient norm at which the search stops, relative to the initial one.
            max_iterations: Maximum number of steps.

        Raises:
            ValueError: If `strength` is not positive.
        """
        if not strength > 0:
            raise ValueError(f"strength={strength}: give a positive number.")
        all_images = self._rotated.new_ones(1, len(self._rotated))
        solution = self._solve(strength, all_images, None, tolerance, max_iterations).flatten(0, 1)
        weight = solution[:, :-1] @ self._basis.T
        return LinearClassifier(weight, solution[:, -1] - weight @ self._mean)

    def search_strength(self, strengths: Sequence[float] = STRENGTHS, folds: int = 5) -> StrengthSearch:
        """Choose the strength by cross-validation.

        The strength with the smallest held-out loss is selected. The loss is that of rescaled logits: a strong penalty
        shrinks logits, which increases the loss but changes no prediction. Among losses within 0.25 % of the smallest,
        the strongest penalty is selected.
        Each class is divided evenly over the folds, in an order that does not depend on the features; an image with
        several labels is assigned to the class of its rarest label. Small sets are divided up to five times. A class
        with a single image is never held out. The candidates are tried from the strongest regularization to the
        weakest, each starting from the previous solution, until the loss has risen twice in a row.

        Args:
            strengths: Candidates for features of variance 1; they are divided by the mean variance.
            folds: Number of folds; fewer for small classes.
        """
        tried = [strength / self._variance for strength in sorted(strengths)]
        divisions = max(1, min(5, _ENOUGH // len(self._rotated)))
        held = torch.cat([_folds(self._strata, folds, seed) for seed in range(divisions)]).to(self._rotated)
        if not len(held):
            return StrengthSearch(
                min(tried, key=lambda value: abs(value * self._variance - _DEFAULT_STRENGTH)), 1.0, {}, {}
            )
        results: list[tuple[float, float, float]] = []
        start: Tensor | None = None
        for strength in tried:
            start = self._solve(strength, 1 - held, start, tolerance=1e-4, max_iterations=200)
            results.append(self._score(start, held))
            last = [loss for loss, _, _ in results[-3:]]
            if len(last) == 3 and last[0] < last[1] < last[2]:
                break
        losses, scales, accuracies = zip(*results, strict=True)
        best = next(position for position, loss in enumerate(losses) if loss <= min(losses) * _EQUAL)
        by_strength = (dict(zip(tried, values, strict=False)) for values in (losses, accuracies))
        return StrengthSearch(tried[best], scales[best], *by_strength)

    # Solutions are (P, K, R + 1) for P sets of images, or (P * K, 1, R + 1) for independent labels: rotated weights,
    # followed by the bias.

    def _solve(
        self, strength: float, sets: Tensor, start: Tensor | None, tolerance: float, max_iterations: int
    ) -> Tensor:
        """Return the solution of each set.

        Args:
            strength: Weight of the losses relative to the penalty.
            sets: (P, N), 1 for the images of each set and 0 for the others.
            start: Starting point; `None` starts at 0.
            tolerance: Gradient norm at which a search stops, relative to that at 0.
            max_iterations: Maximum number of steps.
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

    def _score(self, solutions: Tensor, held: Tensor) -> tuple[float, float, float]:
        """Return the smallest mean loss of the held-out images (P, N), its scale of the logits, and the accuracy."""
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
        """Return the mean loss of the held-out images (P, N)."""
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
        """Return the diagonal of the Hessian, in the shape of the solutions."""
        result = self._penalized.expand_as(solutions).clone()
        for rows, logits in self._logits(solutions, len(sets)):
            weight = strength * self._weights(rows, sets)
            bend = self._loss(logits, rows)[2] * weight.view(*weight.shape[:2], -1)
            result += self._along_axes(bend, rows, squared=True).view_as(result)
        return result

    def _along_axes(self, values: Tensor, rows: slice, squared: bool = False) -> Tensor:
        """Return the sums (P * K, R + 1) of values (n, P, K) times the features of some rows, or their squares."""
        features = self._rotated[rows].square() if squared else self._rotated[rows]
        return values.flatten(1).T.contiguous() @ features

    def _logits(self, solutions: Tensor, sets: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits of all images in blocks (n, P, K), each with its rows."""
        flat = solutions.flatten(0, 1)
        step = max(1, _BLOCK // len(flat))
        for first in range(0, len(self._rotated), step):
            rows = slice(first, first + step)
            yield rows, F.linear(self._rotated[rows], flat).view(-1, sets, self._target.shape[1])

    def _weights(self, rows: slice, sets: Tensor) -> Tensor:
        """Return the weight of each loss in each set, (n, P), or (n, P, K) for independent labels."""
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
    """Return labels (N, K) without NaN, smoothed for classes with equal labels, and weights, 0 if unknown."""
    known = ~target.isnan()
    target = torch.where(known, target, 0)
    positive, total = target.sum(0), known.sum(0)
    constant = (positive == 0) | (positive == total)
    return torch.where(constant, (positive + 0.5) / (total + 1), target), torch.where(known, weight, 0)


def _rarest_labels(target: Tensor) -> Tensor:
    """Return the rarest known label (N,) of each image, from 2 K: its positive labels, then its negative ones."""
    has = torch.cat([target > 0.5, target <= 0.5], dim=1)
    counts = torch.where(has, has.sum(0), len(target) + 1)
    return counts.argmin(1)


def _folds(strata: Tensor, folds: int, seed: int) -> Tensor:
    """Return the held-out images of each fold as (folds, N) of 0 and 1; (0, N) if no class has two images."""
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
    """Return the principal axes (D, R) of features (N, D) with mean 0, an orthonormal basis of their span."""
    if len(centered) < centered.shape[1]:  # with few images, the (N, N) matrix is smaller than the (D, D) one
        values, vectors = torch.linalg.eigh((centered @ centered.T).double())
        kept = values > values[-1] * 1e-10
        basis: Tensor = torch.linalg.qr(centered.T.double() @ vectors[:, kept] / values[kept].sqrt())[0]
    else:
        values, vectors = torch.linalg.eigh((centered.T @ centered).double())
        basis = vectors[:, values > values[-1] * 1e-10]
    return basis.to(centered.dtype)

"""Logistic regression on kept features, solved rather than trained: there is no learning rate to choose. Pure torch."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LinearClassifier", "StrengthSearch", "fit_logistic_regression", "search_strength"]

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-8, 5))
"""Strengths that are tried by default, relative to the features' scale: 1e-4 to 1e2 by half decades."""

_REFRESH = (0, 3, 10, 30)  # steps before which the curvature is computed anew, and every last of these
_HISTORY = 10  # pairs of steps and changes of the gradient that L-BFGS keeps
_HALVINGS = 12  # of a step that does not lead down far enough
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
    """What cross-validation has found.

    Attributes:
        strength: The strength chosen.
        losses: Mean loss of the images held out, by strength in the order tried; without images to hold out, none.
        accuracies: Share of the images (of the labels, where there are several) that are told rightly, likewise.
    """

    strength: float
    losses: dict[float, float]
    accuracies: dict[float, float]


def fit_logistic_regression(
    features: Tensor,
    target: Tensor,
    strength: float = 1.0,
    num_classes: int | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 500,
) -> LinearClassifier:
    """Return the minimum of `strength * sum of losses + ||weight||^2 / 2`, as scikit-learn's `LogisticRegression`.

    The loss is convex, so that the result depends on neither a start nor a seed. It is found by L-BFGS along
    the principal axes of the features, which starts from the curvature of the loss along each.

    Args:
        features: (N, D) floats.
        target: (N,) int64, one class each, for the cross-entropy of a softmax; or (N, K) in [0, 1], any number of
            labels each, for the sum of K binary cross-entropies, in which NaN is unknown.
        strength: Weight of the images against the penalty (`C` of scikit-learn): smaller regularizes more.
        num_classes: K for targets (N,); `None` takes the greatest label.
        tolerance: Gradient at which the search ends, relative to that at its start.
        max_iterations: Most steps.

    Raises:
        ValueError: If shapes do not fit, `strength` is not positive, or a feature is not finite.

    Example:
        >>> classifier = fit_logistic_regression(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))
        >>> (torch.tensor([[2.0]]) @ classifier.weight.T + classifier.bias).argmax(1)
        tensor([1])
    """
    problem = _Problem(features, _one_hot(target, num_classes), target.ndim == 1)
    if not strength > 0:
        raise ValueError(f"strength={strength}: give a positive number.")
    everything = problem.rotated.new_ones(1, len(features))
    solution = problem.solve(strength, everything, None, tolerance, max_iterations)
    return problem.classifier(solution[0])


def search_strength(
    features: Tensor,
    target: Tensor,
    num_classes: int | None = None,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
) -> StrengthSearch:
    """Choose the strength of `fit_logistic_regression` by cross-validation on the training features.

    Chosen is the middle between the strength of the smallest loss, which tends to be too weak a regularization, and
    that of the highest accuracy, which is noisy. Each class is divided evenly over the folds, in an order that does
    not depend on the features; small sets are divided anew up to five times. A class of a single image is never held
    out. The strengths are tried from the strongest regularization on, each starting where the one before ended, until
    the loss has risen twice.

    Args:
        features: (N, D) floats.
        target: (N,) int64 or (N, K), see `fit_logistic_regression`.
        num_classes: K for targets (N,); `None` takes the greatest label.
        strengths: What is tried, for features of variance 1: divided by their mean variance.
        folds: Number of folds; fewer where the classes are smaller.
    """
    problem = _Problem(features, _one_hot(target, num_classes), target.ndim == 1)
    tried = [strength / problem.variance for strength in sorted(strengths)]
    held_out = [_folds(target, folds, seed) for seed in range(max(1, min(5, _ENOUGH // len(features))))]
    held = torch.cat(held_out).to(problem.rotated)
    if not len(held):
        return StrengthSearch(min(tried, key=lambda value: abs(value * problem.variance - _USUAL)), {}, {})
    losses: list[float] = []
    accuracies: list[float] = []
    start: Tensor | None = None
    for strength in tried:
        start = problem.solve(strength, 1 - held, start, tolerance=1e-4, max_iterations=200)
        loss, accuracy = problem.judge(start, held)
        losses.append(loss)
        accuracies.append(accuracy)
        if len(losses) > 2 and losses[-3] < losses[-2] < losses[-1]:
            break
    middle = (losses.index(min(losses)) + accuracies.index(max(accuracies))) // 2
    return StrengthSearch(
        tried[middle], dict(zip(tried, losses, strict=False)), dict(zip(tried, accuracies, strict=False))
    )


def _one_hot(target: Tensor, num_classes: int | None) -> Tensor:
    if target.ndim == 2:
        return target.float()
    if target.ndim != 1 or target.is_floating_point():
        raise ValueError(f"target {target.dtype} {tuple(target.shape)}: give (N,) integers or (N, K) in [0, 1].")
    return F.one_hot(target.long(), num_classes or -1).float()


def _folds(target: Tensor, folds: int, seed: int) -> Tensor:
    """Return which images each fold holds out, (folds, N) of 0 and 1; (0, N) where no class has two images."""
    labels = target.cpu() if target.ndim == 1 else torch.zeros(len(target), dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # class after class, shuffled within each
    counts = labels.bincount()
    order = order[counts[labels[order]] > 1]
    folds = min(folds, int(counts.max())) if len(order) else 0
    held = torch.zeros(folds, len(labels))
    if folds:
        held[torch.arange(len(order)) % folds, order] = 1
    return held


class _Problem:
    """The objective for several sets of images at once (folds), in the principal axes of the features.

    Solutions are (P, K, R + 1): rotated weights, and behind them the bias.

    Args:
        features: (N, D).
        target: (N, K).
        exclusive: Whether the classes exclude each other.
    """

    def __init__(self, features: Tensor, target: Tensor, exclusive: bool) -> None:
        if features.ndim != 2 or len(features) != len(target) or not len(features):
            raise ValueError(f"features {tuple(features.shape)} for {len(target)} targets: give (N, D) and as many.")
        features = features if features.dtype == torch.float64 else features.float()
        if not features.isfinite().all():
            raise ValueError("features with NaN or infinity: no classifier can be fitted to them.")
        self.mean = features.mean(0)
        centered = features - self.mean
        if len(features) < features.shape[1]:  # the axes of few images are found among them, not among the features
            values, vectors = torch.linalg.eigh((centered @ centered.T).double())
            kept = values > values[-1] * 1e-10
            basis = centered.T.double() @ vectors[:, kept] / values[kept].sqrt()
            self.basis = torch.linalg.qr(basis)[0].to(features.dtype)
        else:
            values, vectors = torch.linalg.eigh((centered.T @ centered).double())
            self.basis = vectors[:, values > values[-1] * 1e-10].to(features.dtype)
        rotated = centered @ self.basis
        self.rotated = torch.cat([rotated, rotated.new_ones(len(rotated), 1)], dim=1)
        self.variance = max(float(centered.square().mean()), 1e-12)
        self.target, self.exclusive = target.to(features), exclusive
        self.known = ~target.isnan()
        self.penalized = self.rotated.new_ones(self.rotated.shape[1])
        self.penalized[-1] = 0

    def solve(
        self, strength: float, weights: Tensor, start: Tensor | None, tolerance: float, max_iterations: int
    ) -> Tensor:
        """Return the solution of each set.

        Args:
            strength: Weight of the losses against the penalty.
            weights: (P, N), the weight of each image in each set.
            start: Where to start; `None` starts at 0.
            tolerance: Gradient at which a search ends, relative to that at 0.
            max_iterations: Most steps.
        """

        def evaluate(solution: Tensor) -> tuple[Tensor, Tensor]:
            return self._evaluate(solution, strength, weights)

        def curvature(solution: Tensor) -> Tensor:
            return self._curvature(solution, strength, weights)

        zero = weights.new_zeros(len(weights), self.target.shape[1], self.rotated.shape[1])
        limit = evaluate(zero)[1].flatten(1).norm(dim=1) * tolerance
        return _minimize(evaluate, curvature, zero if start is None else start, limit, max_iterations)

    def judge(self, solutions: Tensor, weights: Tensor) -> tuple[float, float]:
        """Return the mean loss and the accuracy of all sets of images, (P, N) of 0 and 1, under their solutions."""
        loss = right = 0.0
        for rows, logits in self._logits(solutions):
            weight = weights[:, rows].T
            loss += float((self._loss(logits, rows)[0] * weight).sum())
            target = self.target[rows, None]
            if self.exclusive:
                correct = (logits.argmax(2) == target.argmax(2)).float()
            else:
                known = self.known[rows, None]
                correct = (((logits > 0) == (target > 0.5)) * known).sum(2) / known.sum(2).clamp(min=1)
            right += float((correct * weight).sum())
        images = float(weights.sum())
        return loss / images, right / images

    def classifier(self, solution: Tensor) -> LinearClassifier:
        """Return a solution in the features' own coordinates."""
        weight = solution[:, :-1] @ self.basis.T
        return LinearClassifier(weight, solution[:, -1] - weight @ self.mean)

    def _evaluate(self, solutions: Tensor, strength: float, weights: Tensor) -> tuple[Tensor, Tensor]:
        value = (solutions.square() * self.penalized).sum((1, 2), dtype=torch.float64) / 2
        gradient = solutions * self.penalized
        for rows, logits in self._logits(solutions):
            loss, slope, _ = self._loss(logits, rows)
            weight = strength * weights[:, rows].T
            value += (loss * weight).sum(0, dtype=torch.float64)
            slope = (slope * weight[..., None]).flatten(1).T.contiguous()
            gradient += (slope @ self.rotated[rows]).view_as(gradient)
        return value, gradient

    def _curvature(self, solutions: Tensor, strength: float, weights: Tensor) -> Tensor:
        """Return the diagonal of the second derivative, (P, K, R + 1)."""
        result = self.penalized.expand_as(solutions).clone()
        for rows, logits in self._logits(solutions):
            bend = self._loss(logits, rows)[2] * (strength * weights[:, rows].T)[..., None]
            result += (bend.flatten(1).T.contiguous() @ self.rotated[rows].square()).view_as(result)
        return result

    def _logits(self, solutions: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits of all images, (n, P, K) of some rows at a time."""
        flat = solutions.flatten(0, 1)
        step = max(1, _BLOCK // len(flat))
        for first in range(0, len(self.rotated), step):
            rows = slice(first, first + step)
            yield rows, F.linear(self.rotated[rows], flat).view(-1, *solutions.shape[:2])

    def _loss(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses (n, P), their slopes and their curvatures (n, P, K) for logits (n, P, K)."""
        target = self.target[rows, None]
        if self.exclusive:
            logged = logits.log_softmax(2)
            probability = logged.exp()
            return -(logged * target).sum(2), probability - target, probability * (1 - probability)
        known = self.known[rows, None]
        target = torch.where(known, target, 0.5).expand_as(logits)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        probability = logits.sigmoid()
        return (loss * known).sum(2), (probability - target) * known, probability * (1 - probability) * known


def _minimize(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    curvature: Callable[[Tensor], Tensor],
    start: Tensor,
    limit: Tensor,
    max_iterations: int,
) -> Tensor:
    """Minimize several convex functions at once by L-BFGS with backtracking (Nocedal and Wright 2006, section 7.2).

    Args:
        evaluate: Returns the values (P,) and the gradients (P, K, R) at (P, K, R).
        curvature: Returns the diagonals of the second derivatives (P, K, R), from which the search starts.
        start: Where to start, (P, K, R).
        limit: Norm of the gradient at which each is done, (P,).
        max_iterations: Most steps.
    """
    point = start
    value, gradient = evaluate(point)
    going = torch.ones_like(limit, dtype=torch.bool)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for iteration in range(max_iterations):
        going &= gradient.flatten(1).norm(dim=1) > limit
        if not going.any():
            break
        if iteration in _REFRESH or iteration % _REFRESH[-1] == 0:
            inverse = 1 / curvature(point).clamp(min=1e-12)
        direction = -_times_inverse(gradient, steps, inverse)
        slope = _dot(direction, gradient)
        length = going.to(point.dtype)
        for _ in range(_HALVINGS):
            candidate = point + _column(length) * direction
            new_value, new_gradient = evaluate(candidate)
            enough = (new_value <= value + 1e-4 * length * slope) | (length == 0)
            if enough.all():
                break
            length = torch.where(enough, length, length / 2)
        going &= enough  # of the others, rounding hides what is left to gain
        step = torch.where(_column(going), candidate - point, 0)
        change = torch.where(_column(going), new_gradient - gradient, 0)
        bend = _dot(step, change)
        steps = [*steps[1 - _HISTORY :], (step, change, torch.where(bend > 0, 1 / bend, 0))]
        point = point + step
        value = torch.where(going, new_value, value)
        gradient = gradient + change
    return point


def _times_inverse(gradient: Tensor, steps: Sequence[tuple[Tensor, Tensor, Tensor]], diagonal: Tensor) -> Tensor:
    """Return the gradients times the inverse of the second derivative, of which the last steps have met a part."""
    result, factors = gradient, []
    for step, change, inverse in reversed(steps):
        factor = inverse * _dot(step, result)
        result = result - _column(factor) * change
        factors.append(factor)
    result = result * diagonal
    for (step, change, inverse), factor in zip(steps, reversed(factors), strict=True):
        result = result + _column(factor - inverse * _dot(change, result)) * step
    return result


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum((1, 2))


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)

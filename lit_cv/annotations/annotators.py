"""Labels of several annotators an image: consensus, agreement, and the images that they dispute."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Consensus", "Consolidation", "consolidate", "dawid_skene", "fleiss_kappa"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Consolidation = Literal["majority", "soft", "dawid_skene"]


@dataclass
class Consensus:
    """What the labels of several annotators come to.

    Args:
        probabilities: Probability of each class for each image, (N, K): shares of the votes, or of Dawid and Skene's
            model; a row of 0 for an image without a vote.
        votes: Votes for each class, (N, K).
        kappa: Fleiss' kappa: 1 for full agreement, 0 for that of chance.
        accuracy: For each annotator the share of votes that equals the likeliest class, NaN for none, (A,).
    """

    probabilities: Floats
    votes: Integers
    kappa: float
    accuracy: Floats

    @property
    def labels(self) -> Integers:
        """The likeliest class of each image, the first of equals; -1 for an image without a vote, (N,)."""
        return np.where(self.votes.sum(1) > 0, self.probabilities.argmax(1), -1)

    @property
    def agreement(self) -> Floats:
        """Share of the pairs of votes for an image that agree, 1 where there are fewer than two votes, (N,)."""
        return pair_agreement(self.votes)

    @property
    def disputed(self) -> Integers:
        """Images on which annotators disagree, the most disputed first: those with the least agreement of pairs."""
        agreement = self.agreement
        order = np.argsort(agreement, kind="stable")
        return order[agreement[order] < 1]


def consolidate(
    items: Sequence[int] | Integers,
    annotators: Sequence[int] | Integers,
    labels: Sequence[int] | Integers,
    sizes: tuple[int, int, int],
    method: Consolidation = "majority",
) -> Consensus:
    """Bring the labels of several annotators together.

    Args:
        items: Image of each vote, from 0, (V,).
        annotators: Annotator of each vote, from 0, (V,).
        labels: Class of each vote, from 0, (V,).
        sizes: Numbers of images N, annotators A and classes K.
        method: `majority` and `soft` take the shares of the votes; `dawid_skene` weighs annotators by how reliable
            their votes turn out to be.

    Example:
        >>> consolidate([0, 0, 0, 1], [0, 1, 2, 0], [1, 1, 0, 2], (2, 3, 3)).labels.tolist()
        [1, 2]
    """
    counts = np.zeros(sizes, dtype=np.int64)
    np.add.at(counts, (np.asarray(items), np.asarray(annotators), np.asarray(labels)), 1)
    votes = counts.sum(1)
    total = votes.sum(1, keepdims=True)
    probabilities = votes / np.maximum(total, 1)
    if method == "dawid_skene":
        probabilities = np.where(total > 0, dawid_skene(counts)[0], 0.0)
    consensus = Consensus(probabilities, votes, fleiss_kappa(votes), np.empty(0))
    likeliest = consensus.labels
    hits = np.take_along_axis(counts, np.maximum(likeliest, 0)[:, None, None], 2)[..., 0].sum(0)
    given = counts.sum((0, 2))
    consensus.accuracy = np.where(given > 0, hits / np.maximum(given, 1), np.nan)
    return consensus


def dawid_skene(counts: Integers, iterations: int = 200, tolerance: float = 1e-8) -> tuple[Floats, Floats, Floats]:
    """Estimate true classes and the annotators' errors by expectation maximisation.

    Source: Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", 1979.
    It starts from the shares of the votes; log-likelihoods are summed, so that many votes do not underflow.

    Args:
        counts: How often an annotator gave an image a class, (N, A, K).
        iterations: Rounds at most.
        tolerance: Greatest change of a probability at which it ends.

    Returns:
        Probability of each class for each image (N, K), the annotators' confusion (A, K, K) (row = true class, column
        = class given, rows sum to 1), and how frequent the classes are (K,).
    """
    votes = counts.sum(1)
    voted = votes.sum(1) > 0
    posterior = np.where(voted[:, None], votes / np.maximum(votes.sum(1, keepdims=True), 1), 1 / counts.shape[2])
    weights = counts.astype(np.float64)
    for _ in range(iterations):
        prior = posterior[voted].mean(0) if voted.any() else posterior.mean(0)
        confusion = np.einsum("nk,naj->akj", posterior, weights)
        confusion /= np.maximum(confusion.sum(2, keepdims=True), 1e-300)
        with np.errstate(divide="ignore"):
            logs, log_prior = np.log(confusion), np.log(prior)
        # votes that a class never gets from an annotator rule it out: -inf, but 0 times -inf must stay 0
        finite = np.einsum("naj,akj->nk", weights, np.where(np.isfinite(logs), logs, 0.0))
        ruled_out = np.einsum("naj,akj->nk", weights, (~np.isfinite(logs)).astype(np.float64)) > 0
        scores = np.where(ruled_out, -np.inf, finite + log_prior)
        scores -= np.where(np.isfinite(scores.max(1, keepdims=True)), scores.max(1, keepdims=True), 0)
        updated = np.exp(scores)
        updated /= updated.sum(1, keepdims=True)
        updated[~voted] = prior
        change = float(np.abs(updated - posterior).max())
        posterior = updated
        if change < tolerance:
            break
    return posterior, confusion, prior


def pair_agreement(votes: Integers) -> Floats:
    """Return the share of the pairs of votes for each image that agree, 1 where there are fewer than two, (N,)."""
    total = votes.sum(1)
    pairs = total * (total - 1)
    return np.asarray(np.where(pairs > 0, (votes * (votes - 1)).sum(1) / np.maximum(pairs, 1), 1.0))


def fleiss_kappa(votes: Integers) -> float:
    """Return Fleiss' kappa over the images with two votes or more, NaN if there are none or only one class is used.

    Source: Fleiss, "Measuring nominal scale agreement among many raters", 1971; with different numbers of votes,
    each image counts the same.

    Args:
        votes: Votes for each class, (N, K).

    Example:
        >>> fleiss_kappa(np.array([[2, 0], [0, 2]]))
        1.0
    """
    several = votes[votes.sum(1) >= 2]
    if not len(several):
        return float("nan")
    shares = several.sum(0) / several.sum()
    by_chance = float((shares**2).sum())
    observed = float(pair_agreement(several).mean())
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")

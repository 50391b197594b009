"""Labels from several annotators per image: consensus, agreement and disputed images."""

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
    """Consensus of several annotators' labels.

    Args:
        probabilities: Probability of each class for each image, (N, K): vote shares, or posteriors of Dawid and Skene's
            model; a row of zeros for an image without votes.
        votes: Votes for each class, (N, K).
        kappa: Fleiss' kappa: 1 for full agreement, 0 for chance agreement.
        accuracy: Share of each annotator's votes that match the most likely class, NaN without votes, (A,).
    """

    probabilities: Floats
    votes: Integers
    kappa: float
    accuracy: Floats

    @property
    def labels(self) -> Integers:
        """Most likely class of each image, the first one on ties; -1 for an image without votes, (N,)."""
        return np.where(self.votes.sum(1) > 0, self.probabilities.argmax(1), -1)

    @property
    def agreement(self) -> Floats:
        """Share of agreeing vote pairs of each image, 1 with fewer than two votes, (N,)."""
        return pair_agreement(self.votes)

    @property
    def disputed(self) -> Integers:
        """Indices of images on which annotators disagree, sorted by increasing pair agreement."""
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
    """Combine the labels of several annotators into a consensus.

    Args:
        items: Image index of each vote, (V,).
        annotators: Annotator index of each vote, (V,).
        labels: Class index of each vote, (V,).
        sizes: Numbers of images N, annotators A and classes K.
        method: `majority` and `soft` use vote shares; `dawid_skene` weights annotators by their estimated
            reliability.

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
    consensus_labels = consensus.labels
    hits = np.take_along_axis(counts, np.maximum(consensus_labels, 0)[:, None, None], 2)[..., 0].sum(0)
    votes_per_annotator = counts.sum((0, 2))
    consensus.accuracy = np.where(votes_per_annotator > 0, hits / np.maximum(votes_per_annotator, 1), np.nan)
    return consensus


def dawid_skene(counts: Integers, iterations: int = 200, tolerance: float = 1e-8) -> tuple[Floats, Floats, Floats]:
    """Estimate true classes and annotator error rates by expectation maximization.

    Source: Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", 1979.
    The posteriors are initialized with the vote shares. Log-likelihoods are summed, so that many votes do not
    underflow.

    Args:
        counts: How often an annotator assigned a class to an image, (N, A, K).
        iterations: Maximum number of iterations.
        tolerance: Stop when no probability changes by this much.

    Returns:
        Probability of each class for each image (N, K), confusion matrices of the annotators (A, K, K) (row = true
        class, column = assigned class, rows sum to 1), and class priors (K,).
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
        # a vote with zero probability under a class rules that class out (-inf), but 0 * -inf must stay 0
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
    """Return the share of agreeing vote pairs of each image, 1 with fewer than two votes, (N,)."""
    total = votes.sum(1)
    pairs = total * (total - 1)
    return np.asarray(np.where(pairs > 0, (votes * (votes - 1)).sum(1) / np.maximum(pairs, 1), 1.0))


def fleiss_kappa(votes: Integers) -> float:
    """Return Fleiss' kappa over images with at least two votes, NaN if there are none or only one class is used.

    Source: Fleiss, "Measuring nominal scale agreement among many raters", 1971. Images count
    equally even if their numbers of votes differ.

    Args:
        votes: Votes for each class, (N, K).

    Example:
        >>> fleiss_kappa(np.array([[2, 0], [0, 2]]))
        1.0
    """
    multiple = votes[votes.sum(1) >= 2]
    if not len(multiple):
        return float("nan")
    shares = multiple.sum(0) / multiple.sum()
    by_chance = float((shares**2).sum())
    observed = float(pair_agreement(multiple).mean())
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")

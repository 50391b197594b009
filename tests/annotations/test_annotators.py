import numpy as np
import pytest

from lit_cv.annotations.annotators import consolidate, dawid_skene, fleiss_kappa

# Dawid and Skene (1979), table 1: anaesthetists' ratings of 45 patients, the first one's three times
RATINGS = (
    "1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 "
    "1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 "
    "1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 "
    "2322222 1211111 2222222"
)


def ratings() -> np.ndarray:
    counts = np.zeros((45, 5, 4), dtype=np.int64)
    for item, row in enumerate(RATINGS.split()):
        for position, rating in enumerate(row):
            counts[item, max(0, position - 2), int(rating) - 1] += 1
    return counts


def reference(counts: np.ndarray, rounds: int) -> np.ndarray:
    """Implement the two equations of the paper directly."""
    n, a, k = counts.shape
    t = counts.sum(1) / counts.sum((1, 2))[:, None]
    for _ in range(rounds):
        p = t.mean(0)
        pi = np.array(
            [[[sum(t[i, j] * counts[i, o, s] for i in range(n)) for s in range(k)] for j in range(k)] for o in range(a)]
        )
        pi /= pi.sum(2, keepdims=True)
        t = np.array([[p[j] * np.prod(pi[:, j, :] ** counts[i]) for j in range(k)] for i in range(n)])
        t /= t.sum(1, keepdims=True)
    return t


def test_dawid_skene_published_example() -> None:
    counts = ratings()
    posterior, confusion, prior = dawid_skene(counts)
    assert prior.round(2).tolist() == [0.40, 0.42, 0.11, 0.07]  # the paper's table 3
    assert np.allclose(posterior.sum(1), 1)
    assert np.allclose(confusion.sum(2), 1)
    assert np.allclose(dawid_skene(counts, iterations=12, tolerance=0)[0], reference(counts, 12), atol=1e-12)


def test_dawid_skene_overrules_unreliable_majority() -> None:
    random = np.random.RandomState(0)
    truth = random.randint(0, 3, 600)
    good = [np.where(random.rand(600) < 0.95, truth, random.randint(0, 3, 600)) for _ in range(2)]
    # three annotators who take class 2 for class 1, and guess often
    bad = [np.where(random.rand(600) < 0.35, truth, random.randint(0, 3, 600)) for _ in range(3)]
    bad = [np.where(labels == 2, 1, labels) for labels in bad]
    labels = np.stack([*good, *bad])
    items, annotators = np.tile(np.arange(600), 5), np.repeat(np.arange(5), 600)
    majority = consolidate(items, annotators, labels.reshape(-1), (600, 5, 3))
    modeled = consolidate(items, annotators, labels.reshape(-1), (600, 5, 3), "dawid_skene")
    accuracy = [(found.labels == truth).mean() for found in (majority, modeled)]
    assert accuracy[1] > 0.95 > accuracy[0] + 0.05
    assert modeled.accuracy[:2].min() > 0.9 > 0.7 > modeled.accuracy[2:].max()


def test_many_votes_do_not_underflow() -> None:
    counts = np.zeros((4, 1000, 2), dtype=np.int64)
    counts[:2, :, 0] = counts[2:, :, 1] = 1
    counts[:, :300] = counts[:, :300, ::-1]
    posterior = dawid_skene(counts)[0]
    assert posterior.argmax(1).tolist() == [0, 0, 1, 1]
    assert np.isfinite(posterior).all()


def test_fleiss_kappa() -> None:
    # the example of Fleiss (1971) as Wikipedia tells it
    votes = np.array(
        [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
         [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    )  # fmt: skip
    assert fleiss_kappa(votes) == pytest.approx(0.2099, abs=5e-5)
    assert fleiss_kappa(np.array([[1, 1]] * 4)) == pytest.approx(-1.0)
    assert np.isnan(fleiss_kappa(np.array([[3, 0], [2, 0]])))
    assert np.isnan(fleiss_kappa(np.array([[1, 0], [0, 1]])))


def test_disputes_ties_and_images_without_votes() -> None:
    items = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 4]
    labels = [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    found = consolidate(items, [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 0], labels, (5, 4, 2), "soft")
    assert found.labels.tolist() == [0, 0, 0, -1, 1]
    assert found.probabilities[1:4].tolist() == [[0.5, 0.5], [2 / 3, 1 / 3], [0, 0]]
    assert found.disputed.tolist() == [1, 2]
    assert found.agreement.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1, 1])
    modeled = consolidate(items, [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 0], labels, (5, 4, 2), "dawid_skene")
    assert modeled.labels[3] == -1
    assert np.isfinite(modeled.probabilities).all()

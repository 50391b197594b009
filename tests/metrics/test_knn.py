import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from lit_cv.metrics import knn_predictions


@pytest.fixture
def embeddings() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(60, 8), torch.randn(150, 8), torch.randint(5, (150,))


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_scikit_learn(embeddings: tuple[torch.Tensor, ...], temperature: float, chunk_size: int | None) -> None:
    queries, bank, labels = embeddings
    found = knn_predictions(queries, bank, labels, 5, k=(1, 20), temperature=temperature, chunk_size=chunk_size)
    for row, k in enumerate((1, 20)):
        # On the unit sphere the squared distance is 2 - 2 cos.
        reference = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d**2 / 2) / temperature))
        reference.fit(F.normalize(bank, dim=1).double().numpy(), labels.numpy())
        assert found[row].tolist() == reference.predict(F.normalize(queries, dim=1).double().numpy()).tolist()


def test_more_neighbors_than_bank(embeddings: tuple[torch.Tensor, ...]) -> None:
    queries, bank, labels = embeddings
    all_of_them = knn_predictions(queries, bank, labels, 5, k=(150, 1000))
    assert torch.equal(all_of_them[0], all_of_them[1])


def test_tiny_temperature_selects_nearest(embeddings: tuple[torch.Tensor, ...]) -> None:
    queries, bank, labels = embeddings
    found = knn_predictions(queries, bank, labels, 5, k=(1, 50), temperature=1e-4)
    assert torch.equal(found[0], found[1])


def test_each_image_is_its_own_neighbor(embeddings: tuple[torch.Tensor, ...]) -> None:
    _, bank, labels = embeddings
    assert torch.equal(knn_predictions(5 * bank, bank, labels, 5, k=[1])[0], labels)


def test_invalid_input_is_refused() -> None:
    with pytest.raises(ValueError, match="bank of 0 embeddings"):
        knn_predictions(torch.ones(1, 2), torch.ones(0, 2), torch.ones(0, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match=r"k=\[0\]"):
        knn_predictions(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64), 2, k=[0])

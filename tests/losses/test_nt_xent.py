"""NT-Xent, compared with reference values, closed forms, finite differences and the plain form."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import gather_rows
from lit_cv.losses import NTXentLoss
from tests.processes import run_ranks

# Eight independent implementations agree on these to 1e-6, for the inputs of `inputs()`.
VALUES = {0.1: 3.7535138, 0.5: 2.59319132}
FIRST_GRAD = {
    0.1: [0.0712157264, -0.0184439737, 0.095392406, -0.0533072017],
    0.5: [0.0117609035, 0.00126878277, 0.0188763347, -0.00620311312],
}
LAST_GRAD = {
    0.1: [-0.0310314596, 0.0236013904, -0.00290649803, -0.00232925918],
    0.5: [-0.0115403291, 0.0162012205, 0.000711026601, -0.00211779587],
}
CHUNKS = [None, 1, 5, 1000]


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 16), torch.randn(8, 16)


def plain(views: Tensor, temperature: float) -> Tensor:
    """Return the loss from the full similarity matrix by torch's cross-entropy."""
    n_views, n, _ = views.shape
    z = F.normalize(views.flatten(0, 1), dim=1)
    s = (z @ z.T / temperature).masked_fill(torch.eye(n_views * n, dtype=torch.bool), -math.inf)
    positives = [F.cross_entropy(s, torch.arange(n_views * n).roll(-n * shift)) for shift in range(1, n_views)]
    return torch.stack(positives).mean()


def sup_con(views: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """Return equation 2 of Khosla et al., computed view by view."""
    z = F.normalize(views.flatten(0, 1), dim=1)
    labels = labels.repeat(len(views))
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        s = z @ z[i] / temperature
        same = [k for k in others if (labels[k] == labels[i] >= 0) or k % views.shape[1] == i % views.shape[1]]
        losses += [torch.logsumexp(s[others], 0) - s[same].mean()] if same else []
    return torch.stack(losses).mean()


def value_and_grad(loss: Any, views: Tensor) -> tuple[Tensor, Tensor]:
    views = views.clone().requires_grad_()
    value = loss(views)
    value.backward()
    assert views.grad is not None
    return value.detach(), views.grad


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_reference_values_and_gradients(temperature: float, chunk_size: int | None) -> None:
    z0, z1 = (z.requires_grad_() for z in inputs())
    loss = NTXentLoss(temperature, chunk_size=chunk_size)(z0, z1)
    loss.backward()
    assert loss.item() == pytest.approx(VALUES[temperature], abs=2e-6)
    assert z0.grad is not None
    assert z1.grad is not None
    assert z0.grad[0, :4].tolist() == pytest.approx(FIRST_GRAD[temperature], abs=5e-7)
    assert z1.grad[-1, :4].tolist() == pytest.approx(LAST_GRAD[temperature], abs=5e-7)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.1, 0.5, 1.0])
def test_orthonormal_identical_views_equal_closed_form(temperature: float) -> None:
    z = torch.eye(8, 16, dtype=torch.float64)
    expected = math.log(math.exp(1 / temperature) + 14) - 1 / temperature
    assert NTXentLoss(temperature)(z, z).item() == pytest.approx(expected, abs=1e-12)
    assert NTXentLoss(temperature)(z.float(), 3 * z.float()).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.03, 0.07, 0.3, 1.0])
@pytest.mark.parametrize(("n_views", "n"), [(2, 1), (2, 7), (3, 6), (4, 1)])
def test_equals_plain_form(n_views: int, n: int, temperature: float, chunk_size: int | None) -> None:
    views = torch.randn(n_views, n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    value, grad = value_and_grad(NTXentLoss(temperature, chunk_size=chunk_size), views)
    expected, expected_grad = value_and_grad(lambda v: plain(v, temperature), views)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5])
def test_strips_equal_full_matrix(temperature: float) -> None:
    views = torch.randn(2, 700, 32, generator=torch.Generator().manual_seed(0))
    value, grad = value_and_grad(NTXentLoss(temperature), views)
    expected, expected_grad = value_and_grad(lambda v: plain(v, temperature), views)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=2e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-6 / temperature**2)


@pytest.mark.parametrize("labels", [None, [0, 1, 0, -1, -1]])
@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_gradients_equal_finite_differences(
    temperature: float, chunk_size: int | None, labels: list[int] | None
) -> None:
    loss = NTXentLoss(temperature, chunk_size=chunk_size)
    views = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    target = None if labels is None else torch.tensor(labels)
    assert torch.autograd.gradcheck(lambda v: 3 * loss(v, labels=target), (views,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("labels", [None, [0, 1, 0, -1, -1]])
@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_second_derivatives(temperature: float, chunk_size: int | None, labels: list[int] | None) -> None:
    loss = NTXentLoss(temperature, chunk_size=chunk_size)
    views = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    target = None if labels is None else torch.tensor(labels)

    def scaled(v: Tensor) -> Tensor:  # gradients as large as the embeddings for any temperature
        return temperature**2 * loss(v, labels=target)

    assert torch.autograd.gradgradcheck(scaled, (views,), eps=1e-7, atol=1e-5)
    (first,) = torch.autograd.grad(loss(views, labels=target), views, create_graph=True)
    torch.testing.assert_close(first, value_and_grad(lambda v: loss(v, labels=target), views.detach())[1])


@pytest.mark.parametrize("labels", [[0, 1, 2], [-1, -1, 0], [-1]])
def test_single_view_without_positives_has_no_loss(labels: list[int]) -> None:
    views = torch.randn(1, len(labels), 4)
    value, grad = value_and_grad(lambda v: NTXentLoss()(v, labels=torch.tensor(labels)), views)
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("n_views", [1, 2, 3])
def test_supcon_equals_loop(n_views: int) -> None:
    views = torch.randn(n_views, 8, 6, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2, -1, 1, 0, -1])
    value, grad = value_and_grad(lambda v: NTXentLoss(0.2)(v, labels=labels), views)
    expected, expected_grad = value_and_grad(lambda v: sup_con(v, 0.2, labels), views)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_distinct_labels_change_nothing() -> None:
    z0, z1 = inputs()
    unlabeled = NTXentLoss(0.3)(z0, z1)
    torch.testing.assert_close(NTXentLoss(0.3)(z0, z1, labels=torch.arange(8)), unlabeled)
    torch.testing.assert_close(NTXentLoss(0.3)(z0, z1, labels=torch.full((8,), -1)), unlabeled)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.5])
def test_half_precision_is_computed_in_float32(temperature: float) -> None:
    views = torch.stack(inputs()).bfloat16()
    value, grad = value_and_grad(NTXentLoss(temperature), views)
    expected, expected_grad = value_and_grad(NTXentLoss(temperature), views.float())
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(grad, expected_grad.bfloat16())


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_autocast_does_not_apply(chunk_size: int | None) -> None:
    views = torch.stack(inputs())
    expected, expected_grad = value_and_grad(NTXentLoss(0.1, chunk_size=chunk_size), views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = value_and_grad(NTXentLoss(0.1, chunk_size=chunk_size), views)
    assert torch.equal(value, expected)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_collapsed_embeddings(temperature: float, chunk_size: int | None) -> None:
    z = torch.ones(2, 6, 4)
    value, grad = value_and_grad(NTXentLoss(temperature, chunk_size=chunk_size), z)
    assert value.item() == pytest.approx(math.log(11), abs=2e-5)
    assert grad.abs().max() < 1e-4
    zero, grad = value_and_grad(NTXentLoss(temperature, chunk_size=chunk_size), 0 * z)
    assert zero.item() == pytest.approx(math.log(11), abs=2e-5)
    assert torch.isfinite(grad).all()


def test_single_image_has_zero_loss() -> None:
    value, grad = value_and_grad(NTXentLoss(0.1), torch.randn(2, 1, 4))
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert grad.abs().max() < 1e-5


def test_order_of_images_and_views_does_not_matter() -> None:
    z0, z1 = inputs()
    order = torch.randperm(8)
    expected = NTXentLoss(0.2)(z0, z1)
    torch.testing.assert_close(NTXentLoss(0.2)(z1[order], z0[order]), expected)
    torch.testing.assert_close(NTXentLoss(0.2)(torch.stack([z0, z1])), expected)


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        ([(4, 3), (5, 3)], {}, r"views of shape \(4, 3\), \(5, 3\)"),
        ([(4, 3)], {}, "at least two views"),
        ([(0, 3), (0, 3)], {}, "at least one image"),
        ([(4, 3), (4, 3)], {"labels": torch.zeros(3)}, r"labels of shape \(3,\) for 4 images"),
    ],
)
def test_invalid_shapes_are_refused(views: list[tuple[int, int]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NTXentLoss()(*(torch.randn(shape) for shape in views), **options)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": -1.0}, {"chunk_size": 0}])
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        NTXentLoss(**options)


CASES = {  # temperature, chunk_size, whether there are labels
    "plain": (0.3, None, False),
    "chunked": (0.3, 3, False),
    "cold": (0.02, 3, False),
    "labels": (0.3, None, True),
    "labels, one view": (0.3, None, True),
}


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    encoder, images, labels = _network_and_images()
    results: dict[str, Any] = {}
    own = slice(rank * 5, rank * 5 + 5)
    for name, (temperature, chunk_size, labeled) in CASES.items():
        parallel = torch.nn.parallel.DistributedDataParallel(encoder)
        encoder.zero_grad()
        z = parallel(images[:, own].flatten(0, 1)).unflatten(0, (2, 5))
        z = z[:1] if "one view" in name else z
        loss = NTXentLoss(temperature, chunk_size=chunk_size)(z, labels=labels[own] if labeled else None)
        loss.backward(retain_graph=True)
        if name == "labels":
            with pytest.raises(NotImplementedError, match="second derivative"):
                torch.autograd.grad(loss, z, create_graph=True)
        torch.distributed.all_reduce(mean := loss.detach() / 2)
        results[name] = (mean, [parameter.grad.clone() for parameter in encoder.parameters()])
    results["rows"] = [gather_rows(torch.arange(first, last)) for first, last in (((0, 2), (2, 5))[rank], (0, 0))]
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _network_and_images() -> tuple[torch.nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
    return encoder, torch.randn(2, 10, 6, dtype=torch.float64), torch.tensor([0, 1, 0, 2, -1, 1, 0, -1, 2, 2])


def test_two_ranks_equal_one_with_joined_batch(tmp_path: Path) -> None:
    run_ranks(_one_of_two, str(tmp_path))
    encoder, images, labels = _network_and_images()
    for rank in (0, 1):
        results = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert [rows.tolist() for rows in results["rows"]] == [[0, 1, 2, 3, 4], []]
        for name, (temperature, _, labeled) in CASES.items():
            encoder.zero_grad()
            z = encoder(images.flatten(0, 1)).unflatten(0, (2, 10))[: 1 if "one view" in name else 2]
            loss = NTXentLoss(temperature)(z, labels=labels if labeled else None)
            loss.backward()
            value, grads = results[name]
            torch.testing.assert_close(value, loss.detach())
            for grad, parameter in zip(grads, encoder.parameters(), strict=True):
                torch.testing.assert_close(grad, parameter.grad, msg=name)

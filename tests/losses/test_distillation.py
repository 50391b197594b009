"""The losses of distillation against formulas written with loops."""

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_cv.losses import cosine_loss, logit_distillation, relation_distillation
from tests.processes import run_ranks


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def reference_relations(student: np.ndarray, teacher: np.ndarray) -> float:
    """RKD-DA as in equations 4 to 9 of the paper, averaged over the pairs and triplets of different images."""
    pairs, triplets = (list(permutations(range(len(student)), k)) for k in (2, 3))

    def distances(x: np.ndarray) -> np.ndarray:
        values = np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs])
        return values / values.mean()

    def cosines(x: np.ndarray) -> list[float]:
        unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
        return [float(unit(x[i] - x[j]) @ unit(x[k] - x[j])) for i, j, k in triplets]

    distance = np.mean([huber(a - b) for a, b in zip(distances(student), distances(teacher), strict=True)])
    angle = np.mean([huber(a - b) for a, b in zip(cosines(student), cosines(teacher), strict=True)])
    return float(distance + 2 * angle)


def test_cosine_loss_is_the_squared_distance_of_directions() -> None:
    student, teacher = draw(5, 7).requires_grad_(), draw(5, 7, seed=1)
    loss = cosine_loss(student, teacher)
    cosines = [(s @ t) / (s.norm() * t.norm()) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(loss, 2 - 2 * torch.stack(cosines).mean(), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    for s, t, g in zip(student.detach(), teacher, gradient, strict=True):
        s_unit, t_unit = s / s.norm(), t / t.norm()
        expected = -2 / 5 * (t_unit - (s_unit @ t_unit) * s_unit) / s.norm()
        torch.testing.assert_close(g, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logit_distillation_is_the_divergence_of_softened_probabilities(temperature: float) -> None:
    student, teacher = draw(5, 3).requires_grad_(), draw(5, 3, seed=1)
    loss = logit_distillation(student, teacher, temperature)
    p, q = (np.exp(z.detach().numpy() / temperature) for z in (teacher, student))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    assert loss.item() == pytest.approx(temperature**2 * (p * np.log(p / q)).sum(1).mean(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    np.testing.assert_allclose(gradient.numpy(), temperature * (q - p) / 5, rtol=1e-6, atol=1e-9)


def test_relation_distillation_is_that_of_all_pairs_and_triplets() -> None:
    student, teacher = 0.1 * draw(6, 4).requires_grad_(), draw(6, 7, seed=1) + 5
    loss = relation_distillation(student, teacher)
    assert loss.item() == pytest.approx(reference_relations(student.detach().numpy(), teacher.numpy()), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    step = 1e-6
    for place in ((0, 0), (3, 2), (5, 3)):
        moved = [student.detach().clone() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        high, low = (reference_relations(each.numpy(), teacher.numpy()) for each in moved)
        assert float(gradient[place]) == pytest.approx((high - low) / (2 * step), rel=1e-4, abs=1e-6)


def test_relations_ignore_scale_origin_and_rotation() -> None:
    teacher = draw(5, 4)
    rotation = torch.linalg.qr(draw(4, 4, seed=1))[0]
    assert float(relation_distillation(3 * teacher @ rotation + 2, teacher)) == pytest.approx(0.0, abs=1e-9)


def test_relations_of_extreme_batches_are_finite() -> None:
    for student in (draw(1, 3), draw(2, 3), torch.zeros(4, 3), draw(1, 3).float().repeat(4, 1)):
        student = student.clone().requires_grad_()
        loss = relation_distillation(student, draw(len(student), 5, seed=1))
        loss.backward()
        assert math.isfinite(loss.item())
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_losses_compute_in_float32() -> None:
    student, teacher = draw(4, 3).bfloat16(), draw(4, 3, seed=1).bfloat16()
    for loss in (cosine_loss, logit_distillation, relation_distillation):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(student, teacher)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(student.float(), teacher.float()))


def test_errors_of_wrong_shapes_and_values() -> None:
    for loss in (cosine_loss, logit_distillation):
        with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 5\):.* the same"):
            loss(draw(4, 3), draw(4, 5))
    with pytest.raises(ValueError, match="need the same"):
        relation_distillation(draw(4, 3), draw(5, 3))
    with pytest.raises(ValueError, match="temperature=0"):
        logit_distillation(draw(4, 3), draw(4, 3), 0.0)


def _one_of_two(rank: int, folder: str) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    rows = slice(3 * rank, 3 * rank + 3)
    student = draw(6, 4)[rows].clone().requires_grad_()
    loss = relation_distillation(student, draw(6, 7, seed=1)[rows], gather=True)
    loss.backward()
    torch.save((loss.detach(), student.grad), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_relations_on_two_ranks_equal_those_of_the_joined_batch(tmp_path: Path) -> None:
    run_ranks(_one_of_two, str(tmp_path))
    student = draw(6, 4).requires_grad_()
    loss = relation_distillation(student, draw(6, 7, seed=1))
    loss.backward()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for rank_loss, _ in parts:
        torch.testing.assert_close(rank_loss, loss.detach())
    averaged = torch.cat([gradient for _, gradient in parts]) / 2  # as DistributedDataParallel averages
    torch.testing.assert_close(averaged, student.grad)

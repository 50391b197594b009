import torch

from lit_cv.callbacks.prediction_table import ClassTable


def test_image_may_have_many_labels() -> None:
    names = [f"c{number}" for number in range(30)]
    probabilities = torch.linspace(0.9, 0.05, 30)[None]  # 15 of them are at least 0.5
    table = ClassTable(30, names, several=True)
    rows, certainties = table.rows(probabilities, ["a.jpg"])
    assert rows[0][1].split("|") == names[: int((probabilities >= 0.5).sum())]
    assert len(rows[0]) == len(table.columns("image"))
    assert rows[0][3::2] == names[1:5]
    assert certainties[0] == float((probabilities - 0.5).abs().min())
    assert ClassTable(30, names).rows(probabilities, ["a.jpg"])[0][0][:2] == ["a.jpg", "c0"]

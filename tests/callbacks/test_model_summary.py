import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_cv.callbacks import RunModelSummary
from tests.callbacks.tiny import Tiny, loader, trainer


class WithExample(Tiny):
    example_input_array = torch.zeros(4, 2)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layer(self.norm(batch))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("module", "counted"), [(Tiny, False), (WithExample, True)])
def test_flops_are_shown_only_if_counted(
    module: type[Tiny], counted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    caplog.set_level(logging.INFO, "lightning.pytorch")
    trainer(tmp_path, callbacks=[RunModelSummary()], max_epochs=1, limit_train_batches=1).fit(module(), loader(1))
    lines = [line for record in caplog.records if "Trainable params" in record.msg for line in record.msg.splitlines()]
    assert any(line.startswith("0 | layer | Linear") for line in lines)
    assert any("Modules in train mode" in line for line in lines)
    assert ("FLOPs" in lines[1]) == counted == any("Total Flops" in line for line in lines)

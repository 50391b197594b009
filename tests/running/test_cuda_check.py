import ctypes
import os
from pathlib import Path

import pytest
import torch

from lit_cv import SupervisedModule
from lit_cv.cli import main
from lit_cv.running.cuda_check import short_cuda_check


def test_optimizer_steps_open_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    with short_cuda_check():
        monkeypatch.setattr(ctypes, "CDLL", lambda name, *args, **kwargs: pytest.fail(f"opened {name}"))
        torch.optim.AdamW([weight], lr=0.1).step()
    assert weight[0] < 1
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def test_machines_with_gpu_keep_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with short_cuda_check():
        assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def test_command_line_trains_with_short_check(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    seen = []
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr(
        SupervisedModule, "on_train_start", lambda self: seen.append(os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"])
    )
    main(["fit", "--config", "supervised", "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"])
    assert seen == ["0"]

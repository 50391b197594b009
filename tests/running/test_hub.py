"""Upload to and download from a local server that answers like the Hugging Face Hub."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

from lit_cv import hub
from lit_cv.cli import main
from lit_cv.modules.loading import load_module
from lit_cv.nn.weight_files import find_file

huggingface_hub = pytest.importorskip("huggingface_hub")

COMMIT = "a" * 40


class Handler(BaseHTTPRequestHandler):
    """The few answers of the Hub that upload and download of small files need."""

    files: ClassVar[dict[str, bytes]]
    requests: ClassVar[list[str]]

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self) -> None:
        if not self.path.startswith("/me/pets/resolve/"):
            self._answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif (name := self.path.split("/resolve/")[1].partition("/")[2]) not in self.files:
            self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            self._answer(200, self.files[name], ETag=f'"{len(self.files[name])}"', X_Repo_Commit=COMMIT)

    do_GET = do_HEAD = _file  # noqa: N815 - names of the standard library

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.requests.append(self.path)
        url = f"http://{self.headers['Host']}/me/pets"
        if self.headers.get("Authorization") is None and "refused" in body.decode(errors="replace"):
            self._answer(401)
        elif self.path.endswith("/preupload/main"):
            names = [entry["path"] for entry in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer(200, json.dumps({"files": files}).encode())
        elif self.path.endswith("/commit/main"):
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            commit = {"commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": "", "success": True}
            self._answer(200, json.dumps(commit).encode())
        else:
            self._answer(200, json.dumps({"url": url, "name": "me/pets"}).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Handler]]:
    """Let the Hub's client use a local server and an empty cache."""
    handler = type("OneHub", (Handler,), {"files": {}, "requests": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{running.server_port}"
    fetch = partial(huggingface_hub.hf_hub_download, endpoint=address, cache_dir=tmp_path / "cache", token=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=address, token=False))
    hub.download.cache_clear()
    yield handler
    running.shutdown()
    running.server_close()
    hub.download.cache_clear()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for two steps, and return the folder with the run."""
    folder = tmp_path_factory.mktemp("trained")
    main(
        ["fit", "--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "DigitsDataModule",
         "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu",
         "--trainer.default_root_dir", str(folder)]
    )  # fmt: skip
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the last checkpoint of a copy of the run in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "lightning_logs", tmp_path / "lightning_logs")
    return tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"


def test_pushed_checkpoint_is_used_by_name(
    server: type[Handler], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = torch.load(run, weights_only=True)
    main(["push", str(run), "me/pets", "--license", "mit"])
    assert "hf://me/pets" in capsys.readouterr().out
    assert sorted(server.files) == ["README.md", "model.ckpt"]
    assert len(server.files["model.ckpt"]) < run.stat().st_size / 1.5  # without moments of the optimizer
    module = load_module("hf://me/pets")
    assert all(torch.equal(value, original["state_dict"][name]) for name, value in module.state_dict().items())
    assert module.trained_classes == {"class_names": [str(digit) for digit in range(10)]}
    main(["predict", "--ckpt_path", "hf://me/pets", "--data", "DigitsDataModule", "--trainer.accelerator", "cpu"])
    assert Path("predictions.csv").is_file()
    with pytest.raises(ValueError, match="no state of training to resume from: start a new run from its weights"):
        main(["fit", "--ckpt_path", "hf://me/pets"])


def test_card_describes_module_and_results(server: type[Handler], run: Path) -> None:
    main(["push", str(run), "me/pets"])
    _, header, text = server.files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "lit_cv",
        "tags": ["lit_cv", "pytorch-lightning", "SupervisedModule", "conv4"],
        "pipeline_tag": "image-classification",
    }
    for part in ("--ckpt_path hf://me/pets", "raw images of 1 x 8 x 8 values", "| val_acc | 0.", "`0`, `1`"):
        assert part in text


def test_edited_card_is_kept(server: type[Handler], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["README.md"] = b"my words"
    main(["push", str(run), "me/pets"])
    assert server.files["README.md"] == b"my words"
    assert "model.ckpt" in server.files
    assert "README.md was kept" in capsys.readouterr().out


def test_dry_run_uploads_nothing(server: type[Handler], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["push", str(run), "me/pets", "--dry_run"])
    assert "would be uploaded to me/pets" in capsys.readouterr().out
    assert not server.requests


def test_folders_of_this_machine_are_left_out(server: type[Handler], run: Path, tmp_path: Path) -> None:
    content = torch.load(run, weights_only=True)
    content["datamodule_hyper_parameters"] = {"root": str(tmp_path / "photos"), "image_size": 8}
    torch.save(content, run)
    main(["push", str(run), "me/pets"])
    assert str(tmp_path).encode() not in server.files["model.ckpt"] + server.files["README.md"]
    assert b"photos" in server.files["model.ckpt"]


@pytest.mark.parametrize("part", ["", ":backbone"])
def test_weights_bring_the_files_beside_them(server: type[Handler], part: str) -> None:
    server.files |= {"model.safetensors": b"weights", "config.json": b"{}"}
    file = find_file(f"hf://me/pets{part}")
    assert file is not None
    assert (file.path.read_bytes(), file.part) == (b"weights", part[1:] or None)
    assert file.path.with_name("config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://me/pets", "no file model.ckpt or model.safetensors or pytorch_model.bin"),
        ("hf://me/pets/else.ckpt", "no file else.ckpt"),
        ("hf://me/cats", "no such repository, or it is private"),
    ],
)
def test_missing_files_are_named(server: type[Handler], name: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        hub.download(name)


@pytest.mark.parametrize("name", ["hf://pets", "hf://me/../pets", "hf://me/pets/../../x", "hf://me/pets@", "hf://"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"form hf://OWNER/NAME"):
        hub.download(name)


def test_offline_error_names_the_file(server: type[Handler], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", partial(huggingface_hub.hf_hub_download, local_files_only=True)
    )
    with pytest.raises(OSError, match="hf://me/pets could not be downloaded: check the internet connection"):
        hub.download("hf://me/pets")


def test_repository_is_checked_before_anything(run: Path) -> None:
    with pytest.raises(ValueError, match="has the form OWNER/NAME"):
        main(["push", str(run), "pets"])

"""Upload of a checkpoint and its model card to the Hugging Face Hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_cv.atomic_files import atomic_write, write_text
from lit_cv.checkpoint_file import load_tensors
from lit_cv.errors import OptionError
from lit_cv.hub import CHECKPOINT, hub_client
from lit_cv.metrics_table import read_metrics
from lit_cv.modules.base import BaseModule
from lit_cv.modules.checkpoint_contents import image_preprocessing
from lit_cv.modules.few_shot import FewShotModule
from lit_cv.modules.loading import load_module
from lit_cv.modules.task_module import TasksModule
from lit_cv.running.runs import Checkpoint

__all__ = ["CARD", "upload", "write_repository"]

CARD = "README.md"
"""Name of the model card in a repository."""

_KEPT = (
    "state_dict", "hyper_parameters", "hparams_name", "datamodule_hyper_parameters", "lit_cv", "epoch", "global_step",
    "pytorch-lightning_version",
)  # fmt: skip
_MOST_CLASSES = 100  # in the card


def write_repository(
    checkpoint: Checkpoint, folder: Path, repository: str, usage: str, license_name: str | None = None
) -> None:
    """Write the files of a repository: the checkpoint without the state of training, and a model card.

    Folders in the options of module and data are left out of the checkpoint: they tell about this machine.

    Args:
        checkpoint: The checkpoint.
        folder: Existing folder for the files.
        repository: `OWNER/NAME`.
        usage: Markdown for the card that shows how the checkpoint is used.
        license_name: License identifier of the Hub, such as `apache-2.0`.

    Raises:
        ValueError: If the checkpoint does not hold a complete module.
    """
    module = load_module(checkpoint.path)
    content = load_tensors(checkpoint.path)
    if "base" in content["lit_cv"]:
        raise OptionError(
            None, "checkpoint", str(checkpoint.path), "it holds only low-rank updates of other weights. Export it "
            "first, and share model.safetensors"
        )  # fmt: skip
    kept = {name: content[name] for name in _KEPT if name in content}
    for name in ("hyper_parameters", "datamodule_hyper_parameters", "lit_cv"):
        if name in kept:
            kept[name] = _without_folders(kept[name])
    with atomic_write(folder / CHECKPOINT, "the checkpoint") as part:
        torch.save(kept, part)
    write_text(folder / CARD, _card(module, checkpoint, repository, usage, license_name), "the model card")


def upload(folder: Path, repository: str, private: bool = False) -> tuple[str, bool]:
    """Upload the files of a folder, and make the repository if it does not exist.

    Args:
        folder: From `write_repository`.
        repository: `OWNER/NAME`.
        private: Whether a new repository is private.

    Returns:
        The address of the commit, and whether the card was uploaded: an existing one, perhaps edited, is kept.

    Raises:
        OSError: If the Hub cannot be reached or refuses the upload.
    """
    hub = hub_client()
    api = hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        has_card = api.file_exists(repository, CARD)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload a checkpoint of lit_cv",
            ignore_patterns=[CARD] if has_card else None,
        )  # fmt: skip
    except hub.errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        advice = "log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else "try again later"
        raise OSError(f"{repository} could not be uploaded ({str(error).splitlines()[0]}): {advice}.") from None
    except (hub.errors.HTTPError, OSError) as error:
        raise OSError(
            f"{repository} could not be uploaded ({error}): check the internet connection, or log in with `hf auth "
            "login`."
        ) from None
    return str(commit.commit_url), not has_card


def _without_folders(value: Any) -> Any:
    """Return plain values with each absolute path replaced by its last part."""
    if isinstance(value, Mapping):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_folders, value))
    if isinstance(value, str) and (path := Path(value).expanduser()).is_absolute():
        return path.name
    return value


def _card(module: BaseModule, checkpoint: Checkpoint, repository: str, usage: str, license_name: str | None) -> str:
    name, hparams = type(module).__name__, module.hparams
    header: dict[str, Any] = {"library_name": "lit_cv", "tags": ["lit_cv", "pytorch-lightning", name]}
    if isinstance(backbone := hparams["backbone"], str):
        header["tags"].append(backbone)
    if (task := _pipeline_tag(module)) is not None:
        header["pipeline_tag"] = task
    if license_name is not None:
        header["license"] = license_name
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {repository.partition('/')[2]}",
        "",
        f"`{name}` of lit_cv with the backbone `{backbone}` after {checkpoint.step:,} training steps.",
        _images(module),
        "",
        usage,
        "",
        "The checkpoint holds only tensors and plain values.",
    ]
    for attribute, classes in ({"class_names": checkpoint.class_names} | module.trained_classes).items():
        if classes:
            listed = ", ".join(f"`{each}`" for each in classes[:_MOST_CLASSES])
            more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
            lines += ["", f"## {attribute.replace('_', ' ').capitalize()}", "", f"{listed}{more}"]
    if scores := _scores(checkpoint):
        lines += ["", "## Results on the validation images", "", "| metric | value |", "|---|---|"]
        lines += [f"| {metric} | {value:.4g} |" for metric, value in scores.items()]
    options = {key: value for key, value in _without_folders(dict(hparams)).items() if value is not None}
    lines += ["", "## Options of the module", "", "```yaml", yaml.safe_dump(options, sort_keys=False).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _images(module: BaseModule) -> str:
    size, channels = module.hparams["image_size"], module.hparams["in_channels"]
    sides = (size, size) if isinstance(size, int) else size
    shape = "" if sides is None else f" of {channels} x {sides[0]} x {sides[1]} values"
    prepared = image_preprocessing(module)
    return f"It takes raw images{shape} and normalizes them{'' if prepared is None else f': {prepared}'}."


def _pipeline_tag(module: BaseModule) -> str | None:
    """Return the Hub's name of what a module predicts, `None` for several kinds or another kind."""
    if module.evaluates_embedding or isinstance(module, FewShotModule):
        return "image-feature-extraction"
    tasks = module._tasks if isinstance(module, TasksModule) else {}
    tags = {task.pipeline_tag for task in tasks.values()}
    return tags.pop() if len(tags) == 1 else None


def _scores(checkpoint: Checkpoint) -> dict[str, float]:
    """Return the latest validation metrics of the run up to the checkpoint."""
    table = checkpoint.run / "metrics.csv" if checkpoint.run else None
    if table is None or not table.is_file():
        return {}
    rows = [row for row in read_metrics(table) if row["step"] <= checkpoint.step and any(map(_is_score, row))]
    return {name: value for name, value in rows[-1].items() if _is_score(name)} if rows else {}


def _is_score(name: str) -> bool:
    return name.startswith("val_")

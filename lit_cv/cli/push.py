"""The verb `push`: upload a checkpoint and its model card to the Hugging Face Hub."""

import tempfile
from pathlib import Path

from lit_cv.cli.verb_options import VerbParser, flag
from lit_cv.light_torchmetrics import import_torchmetrics
from lit_cv.printable import printable

__all__ = ["run_push"]
_USAGE = """\
```bash
lit-cv predict --ckpt_path {address} --images photos
lit-cv fit --config imagefolder_fine_tune --data.root photos --model.weights {address}
```

The first command predicts the images of a folder; the second fine-tunes the network on folders of classes.
In Python, `lit_cv.modules.loading.load_module("{address}")` returns the module."""


def _parser() -> VerbParser:
    parser = VerbParser(
        "push",
        "Upload a checkpoint, without the state of its training, and a model card to the Hugging Face Hub. Commands\n"
        "then read it as hf://OWNER/NAME. Log in with `hf auth login` first.",
        "  lit-cv push best me/pets --dry_run\n  lit-cv push lightning_logs/version_0/checkpoints/best.ckpt me/pets",
        "CHECKPOINT OWNER/NAME [options]",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, or `best` or `last` for the newest run")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the repository, made if it does not exist")
    parser.add_argument("--private", type=flag, default=False, metavar="{true,false}", help="whether a new repository "
                        "is private (default: false)")  # fmt: skip
    parser.add_argument("--license", metavar="NAME", help="license in the card, such as apache-2.0")
    parser.add_argument("--dry_run", action="store_true", help="print the card and what would be uploaded, then exit")
    return parser


def run_push(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    options = _parser().parse(args)
    import_torchmetrics()
    from lit_cv.hub import PREFIX, hub_client, require_repository
    from lit_cv.running.hub_upload import CARD, upload, write_repository
    from lit_cv.running.runs import find_checkpoint

    require_repository(options.repository)
    hub_client()
    checkpoint = find_checkpoint(options.checkpoint)
    address = f"{PREFIX}{options.repository}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_repository(checkpoint, folder, options.repository, _USAGE.format(address=address), options.license)
        if options.dry_run:
            print(printable((folder / CARD).read_text(encoding="utf-8")))
            sizes = ", ".join(f"{path.name} ({path.stat().st_size:,} bytes)" for path in sorted(folder.iterdir()))
            print(f"would be uploaded to {options.repository}: {sizes}")
            return
        commit, wrote_card = upload(folder, options.repository, options.private)
    print(f"{checkpoint.path} uploaded: {commit}")
    if not wrote_card:
        print(f"The repository's {CARD} was kept.")
    print(f"Use it as {address}.")

"""Test distributed training: each recipe on two ranks, two nodes, a killed rank, an elastic restart.

    python scripts/try_distributed.py recipes
    python scripts/try_distributed.py nodes

`recipes` runs each recipe on built-in data for a few steps and a validation with
`--trainer.strategy ddp --trainer.devices 2`, over gloo on the CPU. `nodes` starts two nodes with one rank each over
loopback with torchrun, three times: to the end; with a rank that is killed in the middle, which must end the job with a
message; and the same with `--max-restarts`, which must end with the same weights as the first.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

RECIPES = [
    "supervised", "fine_tune", "linear_probe", "simclr", "mae", "detection", "segmentation", "multi_task",
    "adversarial", "mmd", "self_training", "prototypical", "relation", "maml",
]  # fmt: skip
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
KILLER = '''
import os
import signal
from pathlib import Path

import lightning as L


class Kill(L.Callback):
    """Kills rank 1 at one step, once."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        done = Path(os.environ["KILLED"])
        if trainer.global_rank == 1 and trainer.global_step == 20 and not done.exists():
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)
'''


def environment(**more: str) -> dict[str, str]:
    # Without the last variable, restarted ranks may find the addresses of the killed ones.
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**os.environ, **settings, **more}


def recipes(args: argparse.Namespace) -> bool:
    succeeded = True
    for name in args.recipes:
        with tempfile.TemporaryDirectory() as folder:
            start = time.time()
            options = [
                "--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.max_epochs=1",
                "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=2", "--data.batch_size=4",
            ]  # fmt: skip
            command = [sys.executable, "-m", "lit_cv", "fit", "--config", name, *QUIET, *options]
            done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
            logs = Path(folder) / "lightning_logs"
            files = sorted(path.name for path in (logs / "version_0").glob("*")) if logs.is_dir() else []
            good = done.returncode == 0 and len(list(logs.glob("*"))) == 1 and "metrics.csv" in files
            succeeded &= good
            print(f"{name:16}{'passed' if good else 'FAILED':8}{time.time() - start:6.0f} s", flush=True)
            if not good:
                print(done.stderr[-2000:])
    return succeeded


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def job(folder: Path, killed: Path, restarts: int = 0) -> list[tuple[int, str]]:
    """Run two nodes to their ends; return the exit status and the output of each."""
    (folder / "killer.py").write_text(KILLER)
    port = free_port()
    nodes = []
    for _ in range(2):
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
            f"--max-restarts={restarts}", "--rdzv_backend=c10d", "--rdzv_id=fit", f"--rdzv_endpoint=127.0.0.1:{port}",
        ]  # fmt: skip
        fit = [
            "-m", "lit_cv", "fit", "--config", "supervised", "--trainer.num_nodes=2", "--trainer.devices=1",
            "--trainer.strategy=ddp", "--trainer.max_epochs=3", "--data.batch_size=32", "--ckpt_path=auto",
            "--checkpoint.every_n_steps=5", "--trainer.callbacks+=killer.Kill", *QUIET,
        ]  # fmt: skip
        nodes.append(
            subprocess.Popen(
                [*torchrun, *fit], cwd=folder, env=environment(KILLED=str(killed), GLOO_SOCKET_IFNAME="lo"),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )
        )  # fmt: skip
        time.sleep(1)  # the first one hosts the rendezvous
    ended = []
    for node in nodes:
        try:
            output, _ = node.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            output, _ = node.communicate()
            output += "\n(killed after a timeout of 10 minutes)"
        ended.append((node.returncode, output))
    return ended


def weights(folder: Path) -> dict[str, torch.Tensor]:
    runs = list((folder / "lightning_logs").glob("version_*"))
    if len(runs) != 1:
        raise SystemExit(f"{len(runs)} runs in {folder}, expected 1.")
    content = torch.load(runs[0] / "checkpoints" / "last.ckpt", weights_only=True)
    print(f"  {content['global_step']} steps, epoch {content['epoch']}")
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


def nodes(args: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        uninterrupted, killed, restarted = (root / part for part in ("uninterrupted", "killed", "restarted"))
        for folder in (uninterrupted, killed, restarted):
            folder.mkdir()
        print("two nodes:")
        ended = job(uninterrupted, killed=root)  # the marker exists, so that no rank is killed
        succeeded = all(status == 0 for status, _ in ended)
        print(f"  exit {[status for status, _ in ended]}")
        if not succeeded:
            print(ended[0][1][-3000:])
            return False
        expected = weights(uninterrupted)
        print("rank 1 is killed:")
        ended = job(killed, killed=root / "first")
        print(f"  exit {[status for status, _ in ended]}")
        for line in ended[1][1].splitlines():
            if "exitcode" in line or "Signal" in line:
                print(f"  {line.strip()[:160]}")
        succeeded &= all(status != 0 for status, _ in ended)
        print("rank 1 is killed, with restarts:")
        ended = job(restarted, killed=root / "second", restarts=2)
        print(f"  exit {[status for status, _ in ended]}")
        succeeded &= all(status == 0 for status, _ in ended)
        if not succeeded:
            print(ended[0][1][-3000:])
            return False
        state = weights(restarted)
        same = all(torch.equal(value, state[name]) for name, value in expected.items())
        print(f"  the weights are {'the same, bit for bit' if same else 'NOT the same'}")
        return succeeded and same


def main() -> None:
    """Run the tests, and exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recipes", "nodes"))
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    args = parser.parse_args()
    sys.exit(0 if {"recipes": recipes, "nodes": nodes}[args.what](args) else 1)


if __name__ == "__main__":
    main()

"""Tries everything on several processes: each recipe on two, two nodes, a killed worker, an elastic restart.

    python scripts/try_distributed.py recipes
    python scripts/try_distributed.py nodes

`recipes` runs each recipe on built-in data for a few steps and a validation with
`--trainer.strategy ddp --trainer.devices 2`, over gloo on the CPU. `nodes` starts two nodes of one process each over
loopback with torchrun: once to the end; once with a process that is killed in the middle, which has to end the job
with a message; and once so under `--max-restarts`, which has to end in the same weights as the first.
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
    """Kills the second process at one step, once."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        done = Path(os.environ["KILLED"])
        if trainer.global_rank == 1 and trainer.global_step == 20 and not done.exists():
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)
'''


def environment(**more: str) -> dict[str, str]:
    # Without the last one the processes of a restarted job may find each other's old addresses.
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**os.environ, **own, **more}


def recipes(args: argparse.Namespace) -> bool:
    fine = True
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
            fine &= good
            print(f"{name:16}{'fine' if good else 'FAILED':8}{time.time() - start:6.0f} s", flush=True)
            if not good:
                print(done.stderr[-2000:])
    return fine


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def job(folder: Path, killed: Path, restarts: int = 0) -> list[tuple[int, str]]:
    """Run two nodes to their ends; return the exit status and the messages of each."""
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
            said, _ = node.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            said, _ = node.communicate()
            said += "\n(stood still for 10 minutes, and was killed)"
        ended.append((node.returncode, said))
    return ended


def weights(folder: Path) -> dict[str, torch.Tensor]:
    runs = list((folder / "lightning_logs").glob("version_*"))
    if len(runs) != 1:
        raise SystemExit(f"{len(runs)} runs in {folder}, expected 1.")
    content = torch.load(runs[0] / "checkpoints" / "last.ckpt", weights_only=True)
    print(f"  {content['global_step']} steps, epoch {content['epoch']}")
    found: dict[str, torch.Tensor] = content["state_dict"]
    return found


def nodes(args: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        never, once, again = (root / part for part in ("whole", "killed", "restarted"))
        for folder in (never, once, again):
            folder.mkdir()
        print("two nodes:")
        ended = job(never, killed=root)  # which exists: nobody is killed
        fine = all(status == 0 for status, _ in ended)
        print(f"  exit {[status for status, _ in ended]}")
        if not fine:
            print(ended[0][1][-3000:])
            return False
        whole = weights(never)
        print("the second process is killed:")
        ended = job(once, killed=root / "first")
        print(f"  exit {[status for status, _ in ended]}")
        for said in ended[1][1].splitlines():
            if "exitcode" in said or "Signal" in said:
                print(f"  {said.strip()[:160]}")
        fine &= all(status != 0 for status, _ in ended)
        print("the same with restarts:")
        ended = job(again, killed=root / "second", restarts=2)
        print(f"  exit {[status for status, _ in ended]}")
        fine &= all(status == 0 for status, _ in ended)
        if not fine:
            print(ended[0][1][-3000:])
            return False
        restarted = weights(again)
        same = all(torch.equal(value, restarted[name]) for name, value in whole.items())
        print(f"  the weights are {'the same, bit for bit' if same else 'NOT the same'}")
        return fine and same


def main() -> None:
    """Try, and end with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recipes", "nodes"))
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    args = parser.parse_args()
    sys.exit(0 if {"recipes": recipes, "nodes": nodes}[args.what](args) else 1)


if __name__ == "__main__":
    main()

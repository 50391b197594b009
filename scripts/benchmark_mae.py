"""Measure speed and memory of masked autoencoding, compared with the same model built from timm blocks by lightly.

    pip install ".[bench]"
    OMP_WAIT_POLICY=PASSIVE python scripts/benchmark_mae.py --threads 1
    OMP_WAIT_POLICY=PASSIVE python scripts/benchmark_mae.py --threads 2

ViT-tiny/16 on 224-pixel images, mask ratio 0.75, decoder of width 192 and depth 4, one training step with AdamW. The
two alternate step by step, so that other load on the machine affects both, and the medians of their times are compared.
The peer runs with torch's default AdamW, as in lightly's example, and with a fused one. Memory is what autograd stores
for the backward pass (distinct storages, without the parameters), per image.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lit_cv import MAEModule
from lit_cv.nn.masking import mask_indices
from lit_cv.nn.patches import gather_patches
from lit_cv.optim import build_optimizer, parameter_groups

RATIO, SIZE, PATCH = 0.75, 224, 16
DECODER = [192, 4, 3]  # width, depth, heads
Step = Callable[[], Any]


class Peer(nn.Module):
    """The model of lightly's MAE example, with the sizes above."""

    def __init__(self) -> None:
        super().__init__()
        vit = VisionTransformer(SIZE, PATCH, embed_dim=192, depth=12, num_heads=3, num_classes=0)
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.length = self.backbone.sequence_length
        self.decoder = MAEDecoderTIMM(
            vit.patch_embed.num_patches,
            PATCH,
            embed_dim=192,
            decoder_embed_dim=DECODER[0],
            decoder_depth=DECODER[1],
            decoder_num_heads=DECODER[2],
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss."""
        n = len(images)
        keep, hidden = utils.random_token_mask(size=(n, self.length), mask_ratio=RATIO, device=images.device)
        embedded = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        x = utils.repeat_token(self.decoder.mask_token, (n, self.length))
        x = self.decoder.decode(utils.set_at_index(x, keep, embedded.type_as(x)))
        prediction = self.decoder.predict(utils.get_at_index(x, hidden))
        target = utils.get_at_index(utils.patchify(images, PATCH), hidden - 1)
        return F.mse_loss(prediction, target)


def build_module() -> MAEModule:
    module = MAEModule(
        backbone="vit_tiny_p16",
        image_size=SIZE,
        decoder_width=DECODER[0],
        decoder_depth=DECODER[1],
        decoder_heads=DECODER[2],
        norm_pix=False,
    )
    module.configure_model()
    return module


class AllPatches(nn.Module):
    """lit_cv's model, except that every patch is encoded, of which the decoder gets the visible ones."""

    def __init__(self) -> None:
        super().__init__()
        self.module = build_module()

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss."""
        m = self.module
        patches, grid = m._to_patches(images)
        mask = m._draw(patches, grid, None)
        keep, hidden = mask_indices(mask, 49)
        tokens = m._encoder.encode(patches, grid)
        tokens = torch.cat([tokens[:, :1], gather_patches(tokens[:, 1:], keep)], 1)
        return m.loss(m.head(tokens, keep, hidden, grid), gather_patches(patches, hidden))


def training_step(
    forward: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, images: Tensor, bf16: bool
) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = forward(images)
        loss.backward()
        optimizer.step()

    return step


def variants(images: Tensor, bf16: bool) -> dict[str, Step]:
    """Return a training step of each model."""
    torch.manual_seed(0)
    module, everything, peer, fused = build_module(), AllPatches(), Peer(), Peer()
    raw, floats = images, (images.float() / 255 - 0.5) / 0.25  # the peer gets normalized images

    def ours(module: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer("adamw", parameter_groups(module, lr=1e-4, weight_decay=0.05), lr=1e-4)

    return {
        "lit_cv": training_step(lambda x: module.step({"image": x}, "train")["loss"], ours(module), raw, bf16),
        "lightly": training_step(peer, torch.optim.AdamW(peer.parameters(), lr=1e-4), floats, bf16),
        "lightly, fused AdamW": training_step(
            fused, torch.optim.AdamW(fused.parameters(), lr=1e-4, fused=True), floats, bf16
        ),
        "lit_cv, all patches encoded": training_step(everything, ours(everything), raw, bf16),
    }


def compare(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    """Return the median time of each step, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["lit_cv"]) < 7:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def saved_bytes(forward: Callable[[], Tensor], module: nn.Module) -> int:
    """Return the bytes that autograd stores for the backward pass."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(forward())
    return sum(saved.values())


def memory_per_image(bf16: bool) -> tuple[float, float]:
    """Return MiB per image of lit_cv's model and of the peer, from the difference between two batch sizes."""
    results = []
    ours, peer = build_module(), Peer()
    for module in (ours, peer):
        sizes = []
        for n in (8, 16):
            images = torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8)

            def forward(images: Tensor = images, module: nn.Module = module) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    if module is ours:
                        return ours.step({"image": images}, "train")["loss"]
                    return peer((images.float() / 255 - 0.5) / 0.25)

            sizes.append(saved_bytes(forward, module))
        results.append((sizes[1] - sizes[0]) / 8 / 2**20)
    return results[0], results[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each precision")
    parser.add_argument("--decoder", type=int, nargs=3, default=DECODER, metavar=("WIDTH", "DEPTH", "HEADS"))
    args = parser.parse_args()
    DECODER[:] = args.decoder
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    images = torch.randint(0, 256, (args.batch_size, 3, SIZE, SIZE), dtype=torch.uint8)
    sizes = f"batch {args.batch_size}, decoder {args.decoder[0]} wide and {args.decoder[1]} deep"
    print(f"torch {torch.__version__}, {args.threads} thread(s), {sizes}", flush=True)
    for name, bf16 in (("fp32", False), ("bf16", True)):
        medians = compare(variants(images, bf16), args.seconds)
        for variant, median in medians.items():
            speed, ratio = args.batch_size / median, median / medians["lit_cv"]
            print(f"{name}  {variant:<28} {speed:7.1f} images/s   lit_cv is {ratio:.2f}x", flush=True)
        ours, peer = memory_per_image(bf16)
        print(f"{name}  memory for the backward pass: lit_cv {ours:.1f}, lightly {peer:.1f} MiB per image", flush=True)


if __name__ == "__main__":
    main()

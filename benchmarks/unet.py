"""Speed of gendiff's U-Net against diffusers' UNet2DModel with the same weights.

    python benchmarks/unet.py                                  the network of DDPM for CIFAR-10
    python benchmarks/unet.py --width 32 --size 28 --multipliers 1 2 2 --attention 7 --channels 1 --groups 4 --batch 64
    python benchmarks/unet.py --device cuda --batch 128 --bf16 --compile

Both networks get the same weights, which is checked on their results, the same images, precision and threads. They take
turns, so that a busy machine slows both; a ratio is that of two turns that follow each other, and the table gives the
median and the range of all. A training step is forward, backward and AdamW; a sampling step is one evaluation without
gradients and dropout. On a CPU with one thread it is the time of the process that counts, which does not grow when
others want the core; else that of the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
import statistics
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import nn

from gendiff.nn.unet import UNet

JOBS = ("training", "sampling")


def make(options: argparse.Namespace) -> tuple[nn.Module, UNet]:
    """Both networks, with the same weights."""
    adm, half = options.design == "adm", options.width // 2
    channels = [int(options.width * multiplier) for multiplier in options.multipliers]
    sides = [math.ceil(options.size / 2**level) for level in range(len(channels))]
    attends = [side in options.attention for side in sides]
    names = {True: "Attn{}Block2D", False: "Resnet{}sampleBlock2D" if adm else "{}Block2D"}
    theirs = UNet2DModel(
        sample_size=options.size,
        in_channels=options.channels,
        out_channels=options.channels,
        down_block_types=tuple(names[each].format("Down") for each in attends),
        up_block_types=tuple(names[each].format("Up") for each in reversed(attends)),
        block_out_channels=tuple(channels),
        layers_per_block=options.blocks,
        downsample_type="resnet" if adm else "conv",
        upsample_type="resnet" if adm else "conv",
        dropout=options.dropout,
        attention_head_dim=64 if adm else None,
        norm_num_groups=options.groups,
        attn_norm_num_groups=options.groups,
        resnet_time_scale_shift="scale_shift" if adm else "default",
    )
    ours = UNet(
        {"pixel": options.channels},
        width=options.width,
        multipliers=options.multipliers,
        blocks=options.blocks,
        attention=options.attention,
        size=options.size,
        head_channels=64 if adm else None,
        scale_shift=adm,
        residual_resampling=adm,
        dropout=options.dropout,
        groups=options.groups,
        periods=(2 * math.pi * 10_000 ** (1 - 1 / half), 2 * math.pi),
        channels_last=options.channels_last,
    )
    carry(theirs, ours)
    return theirs, ours


@torch.no_grad()
def carry(theirs: Any, ours: UNet) -> None:
    """Give a U-Net the weights of a `UNet2DModel` of the same shape."""

    def copy(source: Any, target: Any) -> None:
        for one, other in zip(source.parameters(), target.parameters(), strict=True):
            kernel = one.dim() == 4 and other.dim() == 2
            other.copy_(one.permute(0, 2, 3, 1).flatten(1) if kernel else one.view_as(other))

    def copy_block(source: Any, target: Any) -> None:
        pairs = {"norm1": "before", "conv1": "first", "time_emb_proj": "told", "norm2": "after", "conv2": "second"}
        for one, other in pairs.items():
            copy(getattr(source, one), getattr(target, other))
        if source.conv_shortcut is not None:
            copy(source.conv_shortcut, target.skip)

    def copy_attention(source: Any, target: Any) -> None:
        copy(source.group_norm, target.norm)
        for kind in ("weight", "bias"):
            joined = torch.cat([getattr(part, kind) for part in (source.to_q, source.to_k, source.to_v)])
            getattr(target.inward, kind).copy_(joined)
        copy(source.to_out[0], target.outward)

    def copy_resampling(source: Any, target: Any) -> None:
        if hasattr(target, "convolution"):
            copy(source.conv, target.convolution)
        else:
            copy_block(source, target)

    copy(theirs.conv_in, ours.encoder.first)
    # Theirs are the cosines from short periods to long ones, then the sines; ours from long to short.
    half = ours.width // 2
    order = torch.cat((torch.arange(half - 1, -1, -1), torch.arange(ours.width - 1, half - 1, -1)))
    copy(theirs.time_embedding, ours.level)
    ours.level[2].weight.copy_(theirs.time_embedding.linear_1.weight[:, order])
    down = iter(ours.encoder.down)
    for block in theirs.down_blocks:
        for resnet, attention in zip_longest(block.resnets, getattr(block, "attentions", [])):
            step = next(down)
            copy_block(resnet, step[0])
            if attention is not None:
                copy_attention(attention, step[1])
        for sampler in block.downsamplers or []:
            copy_resampling(sampler, next(down)[0])
    first, attention, second = ours.encoder.middle
    copy_block(theirs.mid_block.resnets[0], first)
    copy_attention(theirs.mid_block.attentions[0], attention)
    copy_block(theirs.mid_block.resnets[1], second)
    up = iter(ours.up)
    for block in theirs.up_blocks:
        for resnet, attention in zip_longest(block.resnets, getattr(block, "attentions", [])):
            step = next(up)
            copy_block(resnet, step[0])
            if attention is not None:
                copy_attention(attention, step[1])
        for sampler in block.upsamplers or []:
            copy_resampling(sampler, step[-1])
    copy(theirs.conv_norm_out, ours.norm)
    copy(theirs.conv_out, ours.last)


class Contender:
    """One of the networks with its optimizer."""

    def __init__(self, name: str, network: nn.Module, options: argparse.Namespace):
        self.name, self.options, self.theirs = name, options, isinstance(network, UNet2DModel)
        self.network = network.to(options.device)
        self.run = torch.compile(self.network) if "compiled" in name else self.network
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def evaluate(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The result for images (B, C, H, W) at steps (B,)."""
        precision = torch.autocast(x.device.type, torch.bfloat16) if self.options.bf16 else contextlib.nullcontext()
        with precision:
            return self.run(x, t).sample if self.theirs else self.run({"pixel": x}, t[:, None])["pixel"]

    def training(self, x: torch.Tensor, t: torch.Tensor) -> None:
        """One optimizer step."""
        self.network.train()
        loss = (self.evaluate(x, t).float() - x).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def sampling(self, x: torch.Tensor, t: torch.Tensor) -> None:
        """One evaluation without gradients."""
        self.network.eval()
        self.evaluate(x, t)

    def seconds(self, job: str, *inputs: torch.Tensor) -> float:
        """Seconds of one step of a turn."""
        clock = time.process_time if self.options.device == "cpu" and self.options.threads == 1 else time.perf_counter
        if self.options.device == "cuda":
            torch.cuda.synchronize()
        begin = clock()
        for _ in range(self.options.steps):
            getattr(self, job)(*inputs)
        if self.options.device == "cuda":
            torch.cuda.synchronize()
        return (clock() - begin) / self.options.steps


def machine(device: str) -> str:
    """What the numbers were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def spread(values: list[float], scale: float = 1.0) -> str:
    """Median and range."""
    return "{:.3g} ({:.3g}-{:.3g})".format(*(scale * f(values) for f in (statistics.median, min, max)))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", choices=["ddpm", "adm"], default="ddpm", help="of the blocks (ddpm)")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 2, 2])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--attention", type=int, nargs="*", default=[16], help="sides with attention (16)")
    parser.add_argument("--size", type=int, default=32, help="side of the images (32)")
    parser.add_argument("--channels", type=int, default=3, help="of the images (3)")
    parser.add_argument("--groups", type=int, default=32, help="of the normalizations (32)")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn (1)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each network (5)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="mixed precision with bfloat16")
    parser.add_argument("--compile", action="store_true", help="measure both compiled, too")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="of gendiff")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Measure, print the table, and return the median ratios."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    theirs, ours = make(options)
    pairs = [("diffusers", theirs), ("gendiff", ours)]
    names = [*pairs, *((f"{name} compiled", network) for name, network in pairs)] if options.compile else pairs
    contenders = {name: Contender(name, network, options) for name, network in names}
    x = torch.randn(options.batch, options.channels, options.size, options.size, device=options.device)
    t = torch.arange(options.batch, device=options.device) * (1000 / options.batch)
    theirs.eval(), ours.eval()
    with torch.no_grad():
        expected, found = (contenders[name].evaluate(x[:2], t[:2]).float() for name, _ in pairs)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()

    precision = "bfloat16 autocast" if options.bf16 else "float32"
    print(f"{machine(options.device)}; {options.threads} thread(s); torch {torch.__version__}; {precision}")
    shape = f"width {options.width} x {options.multipliers}, {options.blocks} blocks, attention at {options.attention}"
    number = sum(p.numel() for p in ours.parameters())
    print(f"{options.design}, {shape}; {number:,} parameters; {options.batch} images of {tuple(x.shape[1:])}")
    print(f"same weights, largest relative difference of results {difference:.1e}; dropout {options.dropout}\n")

    times: dict[tuple[str, str], list[float]] = {(job, name): [] for job in options.jobs for name in contenders}
    for turn in range(options.turns + 1):  # the first one warms up
        for job in options.jobs:
            for name, contender in contenders.items():
                spent = contender.seconds(job, x, t)
                if turn:
                    times[job, name].append(spent)
    compared = [("gendiff", "diffusers")]
    if options.compile:
        compared += [("gendiff compiled", "gendiff"), ("gendiff compiled", "diffusers compiled")]
    ratios = {}
    for job in options.jobs:
        for name in contenders:
            print(f"{job:<9} {name:<19} ms a step {spread(times[job, name], 1e3)}")
        for one, other in compared:
            each = [a / b for a, b in zip(times[job, one], times[job, other], strict=True)]
            ratios[f"{job}: {one} / {other}"] = statistics.median(each)
            print(f"{job:<9} {one} / {other}: {spread(each)}")
    return ratios


if __name__ == "__main__":
    main()

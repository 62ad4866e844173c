"""Seconds and peak memory of the nearest-real search, against the pairwise form.

The published evaluation calls LPIPS pair by pair: for every synthetic image, for every real one, both go through the
network, and their feature maps are subtracted. That is the reference: the lpips package itself for the embeddings
lpips-*, else our network called in the same way. A second form is what a careful reader would make of it: every image
through the network once, all embeddings of the reals held, and differences one synthetic image against all reals. Both
may be timed on the first few synthetic images alone; their times are then scaled to all, and the output says so. For
those images the script checks that all forms give the same nearest image and distance. Ours is ``nearest_real_images``,
its embeddings included.

    python benchmarks/nearest.py                                       # small, on the CPU
    python benchmarks/nearest.py --spatial_dims 3 --img_size 32        # volumes
    python benchmarks/nearest.py --device cuda --img_size 256 --num_synthetic 1000 --num_real 500 --memory_gib 32 \
        --embedding lpips-alex --weights alexnet-owt-7be5be79.pth --product_dtype bfloat16
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_plan.metrics import NearestReal, PerceptualEmbedding, perceptual_embedding
from monai_plan.metrics.nearest import nearest_real_images
from monai_plan.metrics.perceptual import EMBEDDING_NAMES, LPIPSEmbedding
from monai_plan.utils import seeded_generator

T = TypeVar("T")


def smooth_images(count: int, shape: tuple[int, ...], kind: str) -> Tensor:
    """Random fields with structure at several scales, [count, 1, *shape] in [-1, 1]."""
    g = seeded_generator(0, "benchmark", kind)
    images = 0.05 * torch.randn(count, 1, *shape, generator=g)
    for n in (4, 8, 16):
        field = torch.randn(count, 1, *[n] * len(shape), generator=g)
        images += 0.3 * F.interpolate(field, shape, mode="bilinear" if len(shape) == 2 else "trilinear")
    return images.clamp(-1, 1)


def pair_distance(embedding: PerceptualEmbedding) -> tuple[str, Callable[[Tensor, Tensor], Tensor]]:
    """Whose the pairwise distance is, and the distance of two images, both put through the network."""
    if not isinstance(embedding, LPIPSEmbedding):
        return "our network", lambda a, b: (embedding(a) - embedding(b)).square().sum()
    import lpips

    net = embedding.title.removeprefix("LPIPS (").removesuffix(")")
    model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    model.net.load_state_dict(embedding.net.state_dict())
    model.to(embedding.heads[0].device).eval()
    return "the lpips package", lambda a, b: model(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)).squeeze()


@torch.no_grad()
def pair_by_pair(distance: Callable[[Tensor, Tensor], Tensor], queries: Tensor, reals: Tensor) -> Tensor:
    """All distances, [N, M], both images through the network every time."""
    return torch.stack([torch.stack([distance(q, r) for r in reals.split(1)]) for q in queries.split(1)])


@torch.no_grad()
def embedded(embedding: PerceptualEmbedding, images: Tensor, batch_size: int) -> Tensor:
    """[N, E] on the device of the images."""
    return torch.cat([embedding(batch) for batch in images.split(batch_size)])


@torch.no_grad()
def row_by_row(embedding: PerceptualEmbedding, queries: Tensor, reals: Tensor, batch_size: int) -> Tensor:
    """All distances, [N, M], of images to the embeddings ``reals``."""
    rows = []
    for q in queries.split(1):
        query = embedding(q)
        rows.append(torch.cat([(query - part).square().sum(1) for part in reals.split(batch_size)]))
    return torch.stack(rows)


def measured(function: Callable[[], T], device: torch.device) -> tuple[T, float, float]:
    """What the function gives, its seconds, and the peak memory in GiB of the device or of the process so far."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    result = function()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    bytes_held = (
        torch.cuda.max_memory_allocated(device) if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return result, seconds, bytes_held / 2**30


def timed_row_by_row(
    embedding: PerceptualEmbedding, some: Tensor, reals: Tensor, batch_size: int, scale: float
) -> tuple[Tensor, float, float]:
    """``measured`` of embedding the reals once and of ``row_by_row``, the seconds of the latter scaled."""
    held, held_seconds, held_peak = measured(lambda: embedded(embedding, reals, batch_size), reals.device)
    result, seconds, peak = measured(lambda: row_by_row(embedding, some, held, batch_size), reals.device)
    return result, held_seconds + scale * seconds, max(held_peak, peak)


def check(result: NearestReal, reference: Tensor) -> float:
    """The largest relative difference from the reference's distances; an error if it names other images."""
    reference = reference.cpu()
    least = reference.min(1).values
    indices, distances = result.indices[: len(reference)], result.distances[: len(reference)]
    # The image that ours names is the reference's nearest, or as near as its rounding can tell.
    torch.testing.assert_close(reference.gather(1, indices[:, None])[:, 0], least, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(distances, least, rtol=1e-3, atol=1e-6)
    return float(((distances - least).abs() / least.clamp_min(1e-6)).max())


def compare(embedding: PerceptualEmbedding, shape: tuple[int, ...], options: argparse.Namespace) -> None:
    """Print the rows of the table for one image size."""
    device = torch.device(options.device)
    queries = smooth_images(options.num_synthetic, shape, "synthetic")
    reals = smooth_images(options.num_real, shape, "real")
    copies = queries[::10]  # every tenth synthetic image is a near copy
    copies.copy_((reals[torch.arange(len(copies)) % len(reals)] + 0.02 * copies).clamp(-1, 1))
    some, all_reals = queries[: options.timed].to(device), reals.to(device)
    scale = options.num_synthetic / len(some)
    distance = pair_distance(embedding)[1]

    def ours(queries: Tensor, reals: Tensor) -> NearestReal:
        return nearest_real_images(
            queries, reals, embedding, batch_size=options.batch_size, device=device,
            memory=int(options.memory_gib * 2**30), product_dtype=getattr(torch, options.product_dtype),
        )  # fmt: skip

    pair_by_pair(distance, some[:1], all_reals[:1])  # warm up
    ours(queries[:2], reals[:2])
    # Ours last: the peak of a process never falls.
    by_pair, pair_seconds, pair_peak = measured(lambda: pair_by_pair(distance, some, all_reals), device)
    by_row, row_seconds, row_peak = timed_row_by_row(embedding, some, all_reals, options.batch_size, scale)
    result, seconds, peak = measured(lambda: ours(queries, reals), device)
    difference = max(check(result, by_pair), check(result, by_row))
    for name, spent, top in (
        ("pair by pair", scale * pair_seconds, pair_peak),
        ("embedded once, row by row", row_seconds, row_peak),
        ("ours", seconds, peak),
    ):
        each = spent / (len(queries) * len(reals)) * 1e6
        print(f"| {shape[0]} | {name} | {spent:.2f} | {each:.1f} | {spent / seconds:.1f} | {top:.2f} |")
    print(f"\nThe same nearest images; distances differ by {difference:.0e} of themselves at most.\n", flush=True)


def main() -> None:
    """Read the options and print a table a size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num_synthetic", type=int, default=500)
    parser.add_argument("--num_real", type=int, default=500)
    parser.add_argument("--img_size", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--spatial_dims", type=int, choices=(2, 3), default=2)
    parser.add_argument("--embedding", choices=EMBEDDING_NAMES, default="random")
    parser.add_argument("--weights", help="the embedding's local file")
    parser.add_argument("--batch_size", type=int, default=64, help="images embedded at a time, in ours too")
    parser.add_argument("--product_dtype", choices=("float32", "bfloat16"), default="float32", help="of ours")
    parser.add_argument("--memory_gib", type=float, default=2.0, help="of ours")
    parser.add_argument("--timed", type=int, default=5, help="synthetic images on which the other forms are timed")
    options = parser.parse_args()
    options.timed = min(options.timed, options.num_synthetic)
    embedding = perceptual_embedding(
        options.embedding, spatial_dims=options.spatial_dims, img_channels=1, weights=options.weights
    ).to(options.device)
    part = f"{options.timed} of the synthetic images and scaled up" if options.timed < options.num_synthetic else "all"
    print(
        f"{embedding.title}; {options.num_synthetic} synthetic and {options.num_real} real images; {options.device}, "
        f"{torch.get_num_threads()} thread(s). Pairs by {pair_distance(embedding)[0]}; the first two forms are timed "
        f"on {part}.\n\n"
        "| size | search | s | µs a pair | ours is faster by | peak GiB |\n|---:|---|---:|---:|---:|---:|"
    )
    for size in options.img_size:
        compare(embedding, (size,) * options.spatial_dims, options)


if __name__ == "__main__":
    main()

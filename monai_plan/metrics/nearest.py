"""Exact nearest-real search: how far is each image from the real image nearest to it.

A matrix product gives all distances roughly, with a bound on the rounding error of each. Only the pairs that the bound
leaves open, one or two a query as a rule, are then measured as differences in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import ceil, isqrt
from typing import NamedTuple

import ignite.distributed as idist
import torch
from torch import Tensor

from monai_plan.metrics.embedding import Images, embed_batch
from monai_plan.metrics.perceptual import PerceptualEmbedding
from monai_plan.utils import ConfigError, DataError

__all__ = [
    "NearestReal",
    "nearest_other_images",
    "nearest_real",
    "nearest_real_images",
]

MEMORY = 2 * 1024**3  # bytes
SLAB = 2048  # columns of one product: the error bound grows with it
LANES = 8192  # columns that are measured at a time; another number changes the last bits of distances
SCORE_BYTES = 32  # a pair of rows in a tile: score, error, the sum of both, and two indices if the pair is measured
LANE_BYTES = 32  # a lane of a pair that is measured: its sum, its term, the other row and a cast of it, in float64
CPU_PAIRS = 32  # measured at a time on a CPU, so that they stay in its cache
LONGEST = 1e18  # beyond, squares come near to float32's largest number


Groups = tuple[Tensor, Tensor] | None


class NearestReal(NamedTuple):
    """The nearest real image of every query.

    Attributes:
        distances: [N] squared Euclidean distances, >= 0; infinite where all reals are of the query's group.
        indices: [N] int64, the row of ``reals``; of several at the same distance the lowest; 0 where there is none.
    """

    distances: Tensor
    indices: Tensor


@torch.no_grad()
def nearest_real(
    queries: Tensor,
    reals: Tensor,
    *,
    tile: int | None = None,
    memory: int = MEMORY,
    product_dtype: torch.dtype = torch.float32,
    distributed: bool = False,
    groups: Groups = None,
) -> NearestReal:
    """Find for every query the real embedding at the least squared Euclidean distance, exactly.

    The result is, to the last bit, that of computing every one of the N × M distances as a difference in float64 and
    taking the least, the lowest row among equals; ``tile``, ``memory``, ``product_dtype``, the device and the number of
    ranks change the time alone. ‖q − r‖² = ‖q‖² − 2 q·r + ‖r‖² makes it a matrix product first. That form loses digits
    where q ≈ r, just where a copy must show, so each rough distance comes with a bound of its rounding error, and every
    pair that can be the nearest within these bounds is measured as a difference. Where most pairs can be (all reals
    the same, or a spread lost in the rounding of far larger numbers), most are, and it takes the time of the slow loop.

    Args:
        queries: [N, E].
        reals: [M, E], on the same device, which must know float64.
        tile: rows a side of one product at most; None: as many as ``memory`` allows.
        memory: bytes that the search may take beside ``queries`` and ``reals``.
        product_dtype: float32 or bfloat16, of the matrix product's operands. bfloat16 is faster on a GPU, and leaves
            more pairs to measure. float32 is TF32 where PyTorch is told so; the bound follows. Autocast has no effect.
        distributed: share the queries over the ranks of ``torch.distributed``. Every rank calls with the same
            arguments and gets the whole result.
        groups: of every query [N] and of every real [M], int: reals of a query's own group are passed over.

    Returns:
        On the device of ``queries``; the distances in the wider dtype of both sides, float32 at least.

    Raises:
        DataError: if the shapes or groups do not fit, a side is empty, or a value is not finite or too large for
            float32.
        ConfigError: if ``tile`` is less than 1, ``memory`` too small or ``product_dtype`` another one.
    """
    if queries.ndim != 2 or reals.ndim != 2 or queries.shape[1] != reals.shape[1] or not queries.shape[1]:
        raise DataError(
            f"queries [N, E] and reals [M, E] must share E > 0, got {tuple(queries.shape)} and {tuple(reals.shape)}: "
            "use one embedding and one image size for both."
        )
    if not (queries.is_floating_point() and reals.is_floating_point()):
        raise DataError(f"embeddings must be floating-point numbers, got {queries.dtype} and {reals.dtype}.")
    if tile is not None and tile < 1:
        raise ConfigError(f"tile must be at least 1, got {tile}.")
    groups = _check_sides(queries, reals, groups, queries.device)
    wanted = (min(tile or len(side), len(side)) for side in (queries, reals))
    sizes = _sizes(queries.shape[1], *wanted, memory=memory, product_dtype=product_dtype)
    result = _search(
        lambda start, stop: queries[start:stop],
        lambda: reals.split(sizes.reals),
        count=len(queries), step=1, sizes=sizes, product_dtype=product_dtype, device=queries.device,
        distributed=distributed, groups=groups,
    )  # fmt: skip
    dtype = torch.promote_types(torch.promote_types(queries.dtype, reals.dtype), torch.float32)
    return result._replace(distances=result.distances.to(dtype))


@torch.no_grad()
def nearest_real_images(
    queries: Images,
    reals: Images,
    embedding: PerceptualEmbedding,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    memory: int = MEMORY,
    product_dtype: torch.dtype = torch.float32,
    distributed: bool = False,
    groups: Groups = None,
) -> NearestReal:
    """Find for every image the real image at the least perceptual distance, without holding all embeddings.

    An LPIPS embedding of 256 x 256 pixels has 10⁶ to 10⁷ numbers, so those of a data set may not fit. Here as many
    queries as fit are embedded and held, the real images pass by batch after batch, and so on until all queries are
    done: ⌈N / queries held⌉ passes over the real images. The search is that of ``nearest_real``, exact for the
    embeddings as computed; batches are the same on any number of ranks.

    Args:
        queries: [N, C, *spatial], values in [-1, 1].
        reals: [M, C, *spatial].
        embedding: is moved to ``device`` and stays there.
        batch_size: images embedded at a time, fewer where ``memory`` asks for it.
        device: where to compute; the images may be elsewhere.
        memory: bytes on ``device`` for all but the embedding's own weights and feature maps.
        product_dtype: see ``nearest_real``.
        distributed: see ``nearest_real``; every rank embeds all real images.
        groups: see ``nearest_real``.

    Returns:
        On the CPU.

    Raises:
        DataError: if a side is empty, or the images do not fit each other or the embedding.
        ConfigError: if ``batch_size`` is less than 1, ``memory`` too small or ``product_dtype`` another one.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    if queries.shape[1:] != reals.shape[1:]:
        raise DataError(
            f"queries and reals must be images of one shape, got {tuple(queries.shape[1:])} and "
            f"{tuple(reals.shape[1:])}: bring both to one size."
        )
    groups = _check_sides(queries, reals, groups, torch.device(device))
    embedding.to(device)
    sample = embed_batch(embedding, reals[:1], device)
    sizes = _sizes(
        sample.shape[1], len(queries), batch_size, memory=memory, product_dtype=product_dtype,
        embedded=sample.dtype.itemsize,
    )  # fmt: skip
    step = min(sizes.reals, sizes.queries)  # queries pass through the embedding in batches as well
    sizes = sizes._replace(queries=sizes.queries // step * step)

    def embedded_queries(start: int, stop: int) -> Tensor:
        rows = sample.new_empty(stop - start, sample.shape[1])
        for part, batch in zip(rows.split(step), queries[start:stop].split(step), strict=True):
            part.copy_(embed_batch(embedding, batch, device))
        return rows

    def embedded_reals() -> Iterator[Tensor]:
        return (embed_batch(embedding, batch, device) for batch in reals.split(sizes.reals))

    held = None
    if queries is reals and sizes.queries >= len(queries):  # each is embedded once
        held = embedded_queries(0, len(queries))
    result = _search(
        embedded_queries if held is None else lambda start, stop: held[start:stop],
        embedded_reals if held is None else lambda: held.split(sizes.reals),
        count=len(queries), step=step, sizes=sizes, product_dtype=product_dtype, device=sample.device,
        distributed=distributed, groups=groups,
    )  # fmt: skip
    return NearestReal(result.distances.to(sample.dtype).cpu(), result.indices.cpu())


def nearest_other_images(
    images: Images,
    identities: Tensor,
    embedding: PerceptualEmbedding,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    memory: int = MEMORY,
) -> Tensor:
    """The least perceptual distance of every image to one of another identity.

    Args:
        images: [N, C, *spatial], values in [-1, 1].
        identities: [N] int, for instance the number of the patient.
        embedding, batch_size, device, memory: see ``nearest_real_images``.

    Returns:
        [N], on the CPU; infinite if all images are of one identity.

    Raises:
        DataError: if the images do not fit the embedding, or the identities not the images.
        ConfigError: if ``batch_size`` is less than 1 or ``memory`` too small.
    """
    found = nearest_real_images(
        images, images, embedding, batch_size=batch_size, device=device, memory=memory, groups=(identities, identities)
    )
    return found.distances.float()


def _check_sides(queries: Images, reals: Images, groups: Groups, device: torch.device) -> Groups:
    """The groups on the device, if both sides have rows and as many groups."""
    if not len(queries) or not len(reals):
        raise DataError(f"a nearest-real search needs images on both sides, got {len(queries)} and {len(reals)}.")
    if groups is None:
        return None
    for side, numbers in zip((queries, reals), groups, strict=True):
        if numbers.shape != (len(side),) or numbers.is_floating_point():
            raise DataError(f"groups must be [N] integers, N = {len(side)}: got {tuple(numbers.shape)}.")
    return groups[0].to(device), groups[1].to(device)


class _Sizes(NamedTuple):
    """How many rows or pairs there are at a time."""

    queries: int
    reals: int
    pairs: int


def _sizes(
    width: int, queries: int, reals: int, *, memory: int, product_dtype: torch.dtype, embedded: int = 0
) -> _Sizes:
    """Share ``memory`` out: half to the queries, 1/4 to the reals, 1/8 each to the scores and to measured pairs.

    Args:
        width: E.
        queries: rows at most.
        reals: rows at most.
        memory: see ``nearest_real``.
        product_dtype: see ``nearest_real``.
        embedded: bytes an element that are held beside the operands of the product.
    """
    if product_dtype not in (torch.float32, torch.bfloat16):
        raise ConfigError(f"product_dtype must be torch.float32 or torch.bfloat16, got {product_dtype}.")
    # A held row, its slab in float64 while it is centred (see _centred), and its few numbers.
    row = width * (embedded + product_dtype.itemsize) + min(width, SLAB) * 24 + 64
    pair = min(width, LANES) * LANE_BYTES
    centre = width * 8
    free = max(0, memory - centre)
    scores = free // 8 // SCORE_BYTES
    reals = min(reals, free // 4 // row, isqrt(scores))
    queries = min(queries, free // 2 // row, scores // max(1, reals))
    pairs = free // 8 // pair
    if not (queries and reals and pairs):
        least = centre + max(4 * row, 8 * pair, 8 * SCORE_BYTES)
        raise ConfigError(
            f"memory must be at least {least} bytes for embeddings of {width} numbers, got {memory}: raise it, or take "
            "a smaller embedding or image size."
        )
    return _Sizes(queries, reals, pairs)


def _search(
    queries: Callable[[int, int], Tensor],
    tiles: Callable[[], Iterable[Tensor]],
    *,
    count: int,
    step: int,
    sizes: _Sizes,
    product_dtype: torch.dtype,
    device: torch.device,
    distributed: bool,
    groups: Groups,
) -> NearestReal:
    """Search block by block of queries: ``queries(start, stop)``, over all ``tiles()`` of reals; float64 distances.

    A rank takes a whole number of ``step`` rows.
    """
    rank, world_size = (idist.get_rank(), idist.get_world_size()) if distributed else (0, 1)
    first, last = (min(count, step * (ceil(count / step) * r // world_size)) for r in (rank, rank + 1))
    distances = torch.zeros(count, dtype=torch.float64, device=device)
    indices = torch.zeros(count, dtype=torch.int64, device=device)
    with torch.autocast(device.type, enabled=False):
        for start in range(first, last, sizes.queries):
            stop = min(start + sizes.queries, last)
            of_block = groups and (groups[0][start:stop], groups[1])
            block = _Block(queries(start, stop), product_dtype, sizes.pairs, of_block)
            for reals in tiles():
                block.add(reals)
                del reals  # or two tiles would be held while the next one is embedded
            distances[start:stop], indices[start:stop] = block.distances, block.indices
            del block  # or two blocks would be held while the queries of the next one are embedded
    if world_size > 1:  # every row is zero on all ranks but one
        distances, indices = (torch.as_tensor(idist.all_reduce(rows, "SUM")) for rows in (distances, indices))
    return NearestReal(distances, indices)


class _Block:
    """The nearest real of every row of ``queries`` among the tiles seen so far."""

    def __init__(self, queries: Tensor, product_dtype: torch.dtype, pairs: int, groups: Groups) -> None:
        count, device = len(queries), queries.device
        self.queries, self.product_dtype, self.groups = queries, product_dtype, groups
        self.pairs = min(pairs, CPU_PAIRS) if device.type == "cpu" else pairs
        self.distances = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.indices = torch.zeros(count, dtype=torch.int64, device=device)
        self.least = torch.full((count, 1), torch.inf, device=device)  # the nearest real's score is not above it
        self.seen = 0

    def add(self, reals: Tensor) -> None:
        """Take a further tile of reals into account."""
        if not self.seen:
            # Distances do not change when both sides move; shorter rows have smaller errors. A wide centre makes the
            # difference from it wide.
            self.centre = reals.mean(0, dtype=torch.promote_types(reals.dtype, torch.float32))
            self.rows, self.squares = _centred(self.queries, self.centre, self.product_dtype, "queries")
        rows, squares = _centred(reals, self.centre, self.product_dtype, "reals")
        scores, errors = _scores(self.rows, self.squares, rows, squares)
        if self.groups is not None:
            same = self.groups[0][:, None] == self.groups[1][self.seen : self.seen + len(reals)]
            scores.masked_fill_(same, torch.inf)
        self.least = torch.minimum(self.least, (scores + errors).amin(1, keepdim=True))
        near = scores.sub_(errors) <= self.least
        # where all reals so far are of the query's group, infinity is not above infinity
        open_pairs = (near if self.groups is None else near & scores.isfinite()).nonzero(as_tuple=True)
        del scores, errors
        for which, columns in zip(*(index.split(self.pairs) for index in open_pairs), strict=True):
            self._measure(reals, which, columns)
        self.seen += len(reals)

    def _measure(self, reals: Tensor, rows: Tensor, columns: Tensor) -> None:
        found = _squared_distances(self.queries, rows, reals, columns)
        distances = torch.full_like(self.distances, torch.inf).scatter_reduce(0, rows, found, "amin")
        least = found == distances[rows]
        lowest = torch.full_like(self.indices, len(reals)).scatter_reduce(0, rows[least], columns[least], "amin")
        nearer = distances < self.distances  # an equal one seen before has the lower index
        self.distances = torch.where(nearer, distances, self.distances)
        self.indices = torch.where(nearer, lowest + self.seen, self.indices)


def _centred(rows: Tensor, centre: Tensor, dtype: torch.dtype, name: str) -> tuple[Tensor, Tensor]:
    """``rows - centre`` rounded to float32 and then to ``dtype``, and the squared lengths in float64, [n]."""
    out = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    squares = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], SLAB):
        columns = slice(start, start + SLAB)
        slab = (rows[:, columns] - centre[columns]).float()
        out[:, columns] = slab
        squares += slab.double().square_().sum(1)
    if not bool((squares < LONGEST**2).all()):  # false for nan
        raise DataError(
            f"the {name} of a nearest-real search hold values that are not finite or, less the mean of the reals, a "
            f"row longer than {LONGEST:g}: look for broken images or scale the embeddings."
        )
    return out, squares


def _scores(a: Tensor, a_squares: Tensor, b: Tensor, b_squares: Tensor) -> tuple[Tensor, Tensor]:
    """The scores ‖b‖² − 2 a·b = ‖a − b‖² − ‖a‖², [n, m], and bounds of their errors.

    With ε the rounding of an operand (centring included) and γ = ku / (1 − ku) that of a sum of k products, in any
    order, |computed a·b − a·b| <= ((1 + ε)² (1 + γ) − 1) ‖a‖‖b‖, by Cauchy and Schwarz. The rest of the arithmetic is a
    dozen float32 roundings of ‖b‖² and ‖a‖‖b‖ (2⁻²⁰ allows 16), and the roundings of the float64 distances by which
    pairs are compared in the end (see _squared_distances), each 2⁻⁵³ of at most 2 (‖a‖² + ‖b‖²).
    """
    width = a.shape[1]
    rounding = _operand_rounding(a)
    unit = 2**-22 if rounding else 2**-24  # matrix units that take rounded operands may truncate where they add
    k = (min(width, SLAB) + ceil(width / SLAB)) * unit
    product_error = ((1 + 2**-24) * (1 + rounding)) ** 2 / (1 - k) - 1

    scores = torch.zeros(len(a), len(b), device=a.device)
    for x, y in zip(a.split(SLAB, 1), b.split(SLAB, 1), strict=True):
        if x.is_cuda and x.dtype == torch.bfloat16 and hasattr(torch.ops.aten.mm, "dtype"):  # PyTorch 2.8 or later
            scores += torch.mm(x, y.T, out_dtype=torch.float32)
        else:
            scores += x.float() @ y.float().T
    scores.mul_(-2).add_(b_squares.float())
    # Never zero, so that what float32 flushes to zero (2⁻¹²⁶ a product) lies within the bound.
    a_lengths, b_lengths = (squares.sqrt() + width**0.5 * 2**-50 for squares in (a_squares, b_squares))
    errors = torch.outer(((2 * product_error + 2**-20) * a_lengths).float(), b_lengths.float())
    errors += (2**-20 * b_lengths.square()).float()
    errors += ((ceil(width / LANES) + 20) * 2**-51 * a_lengths.square()).float()[:, None]
    return scores, errors


def _operand_rounding(operand: Tensor) -> float:
    """The relative rounding of a product's operands in the device's matrix unit."""
    if operand.dtype == torch.bfloat16:
        return 2**-8
    backend = torch.backends.cuda if operand.is_cuda else torch.backends.mkldnn
    matmul = getattr(backend, "matmul", None)  # before PyTorch 2.9 all backends had one precision, by other names
    precision = getattr(matmul, "fp32_precision", None) or torch.get_float32_matmul_precision()
    # TF32 keeps 10 bits and may truncate; what is not known is taken for the coarsest.
    return {"none": 0.0, "ieee": 0.0, "highest": 0.0, "tf32": 2**-10, "high": 2**-10}.get(precision, 2**-8)


def _squared_distances(a: Tensor, rows: Tensor, b: Tensor, columns: Tensor) -> Tensor:
    """‖a[rows] − b[columns]‖² pair by pair in float64, [P].

    Every step is elementwise: slab after slab the terms are added to those of the same lane, then the lanes in halves.
    So a pair's distance has the same bits whatever the other pairs, the device and the number of threads.
    """
    width = min(LANES, a.shape[1])
    lanes = torch.zeros(len(rows), width, dtype=torch.float64, device=a.device)
    for x, y in zip(a.split(width, 1), b.split(width, 1), strict=True):
        terms = x.index_select(0, rows).to(torch.float64)
        terms -= y.index_select(0, columns)
        lanes[:, : terms.shape[1]] += terms.square_()
    while width > 1:
        half = (width + 1) // 2
        lanes[:, : width - half] += lanes[:, half:width]
        width = half
    return lanes[:, 0].clone()

from __future__ import annotations

import math

import ignite.distributed as idist
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_plan.metrics import RandomFeatureEmbedding, embed, nearest_other_images, nearest_real
from monai_plan.metrics import nearest as module
from monai_plan.metrics.nearest import nearest_real_images
from monai_plan.utils import ConfigError, DataError

DTYPES = [torch.float32, torch.bfloat16]


def slow_nearest(queries, reals):
    """Every distance of its own, its terms added without any rounding; the lowest row among equals."""

    def distance(q, r):
        return math.fsum((a - b) ** 2 for a, b in zip(q, r, strict=True))

    rows = [[distance(q, r) for r in reals.tolist()] for q in queries.tolist()]
    best = [min(range(len(reals)), key=row.__getitem__) for row in rows]
    return [row[i] for row, i in zip(rows, best, strict=True)], best


def check(queries, reals, **options):
    distances, indices = slow_nearest(queries, reals)
    result = nearest_real(queries, reals, **options)
    assert result.indices.tolist() == indices
    assert result.distances.tolist() == pytest.approx(distances, rel=1e-6, abs=0)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    m=st.integers(1, 12),
    width=st.integers(1, 6),
    tile=st.sampled_from([None, 1, 2, 3, 7]),
    product_dtype=st.sampled_from(DTYPES),
    levels=st.sampled_from([None, 2, 5]),
    seed=st.integers(0, 1000),
)
def test_equals_the_slow_pairwise_search(n, m, width, tile, product_dtype, levels, seed):
    queries, reals = noise(n, width, seed=seed) + 3, noise(m, width, seed=seed + 1) + 3
    if levels is not None:  # few whole numbers: many equal rows and equal distances
        queries, reals = ((side * levels / 2).round() for side in (queries, reals))
    check(queries, reals, tile=tile, product_dtype=product_dtype)


def _near_duplicates(count, width, offset, spread, dtype=torch.float32):
    base = offset + noise(1, width, dtype=dtype)
    return tuple(base + spread * noise(count, width, seed=seed, dtype=dtype) for seed in (1, 2))


HARD = {
    "copies of three rows": (noise(3, 40)[torch.arange(20) % 3], noise(3, 40)[torch.arange(20) % 3]),
    "all distances equal": (torch.zeros(4, 30), torch.eye(30)),
    "all rows equal": (torch.ones(5, 8), torch.ones(9, 8)),
    "near duplicates at 1e-7": _near_duplicates(20, 40, 0, 1e-8),
    "near duplicates at 1e-3, far from the origin": _near_duplicates(20, 40, 100, 1e-4),
    "mean 1e4": _near_duplicates(20, 40, 1e4, 1),
    "mean 1e4, spread in the last bits": _near_duplicates(20, 40, 1e4, 3e-3),
    "two groups, 1e4 apart": tuple(
        side + 1e4 * (torch.arange(20) % 2)[:, None] for side in _near_duplicates(20, 40, 0, 1e-2)
    ),
    "float64 that float32 cannot tell apart": _near_duplicates(20, 40, 1, 1e-12, torch.float64),
    "float64 and float32": (noise(6, 40, dtype=torch.float64), noise(20, 40, seed=1)),
    "half precision": (noise(20, 3).half(), noise(400, 3, seed=1).half()),
    "squares below float32": tuple(1e-25 * noise(20, 40, seed=seed, dtype=torch.float64) for seed in (1, 2)),
    "squares near float32's end": tuple(1e16 * side for side in _near_duplicates(20, 40, 1, 1)),
    "an outlier": (noise(20, 40), torch.cat([torch.full((1, 40), 1e6), noise(20, 40, seed=1)])),
    "so far off that float64 sees no difference": (
        torch.tensor([[1e6], [-1e6]], dtype=torch.float64),
        1e-12 * torch.tensor([[1.0], [2], [0]], dtype=torch.float64),
    ),
    "one against one": (noise(1, 40), noise(1, 40, seed=1)),
    "one query": (noise(1, 40), noise(20, 40, seed=1)),
    "one real": (noise(20, 40), noise(1, 40, seed=1)),
    "wider than all lanes": _near_duplicates(3, 2 * module.LANES + 3, 0, 1e-6),
}


@pytest.mark.parametrize("product_dtype", DTYPES)
@pytest.mark.parametrize("tile", [None, 1, 7])
@pytest.mark.parametrize("case", HARD)
def test_is_exact_where_the_product_loses_its_digits(case, tile, product_dtype):
    check(*HARD[case], tile=tile, product_dtype=product_dtype)


def test_copies_are_found_at_distance_zero_far_from_the_origin():
    reals = noise(50, 300) + 100
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    copies = nearest_real(reals[order], reals, tile=16)
    assert torch.equal(copies.indices, order)
    assert (copies.distances == 0).all()


def test_autocast_does_not_reach_a_search():
    queries, reals = _near_duplicates(60, 100, 0, 0.02)
    reals = torch.cat([noise(60, 100, seed=3), reals])  # the centre is far from the near duplicates
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(queries, reals)


def test_the_bound_follows_pytorchs_precision_of_products():
    rows, squares = module._centred(noise(5, 30), torch.zeros(30), torch.float32, "rows")
    _, errors = module._scores(rows.bfloat16(), squares, rows.bfloat16(), squares)
    torch.set_float32_matmul_precision("medium")  # bfloat16
    try:
        assert torch.equal(module._scores(rows, squares, rows, squares)[1], errors)
        check(*HARD["near duplicates at 1e-7"])
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (module._scores(rows, squares, rows, squares)[1] < errors / 100).all()


@pytest.mark.parametrize("product_dtype", DTYPES)
def test_tiles_and_memory_change_no_bit(product_dtype):
    queries, reals = noise(40, 3001), noise(50, 3001, seed=1)
    expected = nearest_real(queries, reals)
    for options in ({"tile": 1}, {"tile": 13}, {"memory": 900_000}, {"memory": 3_000_000}):
        result = nearest_real(queries, reals, product_dtype=product_dtype, **options)
        assert torch.equal(result.indices, expected.indices)
        assert torch.equal(result.distances, expected.distances)


@settings(max_examples=30, deadline=None)
@given(
    width=st.sampled_from([1, 7, 300, 5000]),
    scale=st.sampled_from([1e-25, 1e-3, 1.0, 1e6]),
    mean=st.sampled_from([0.0, 1.0, 100.0]),
    product_dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
def test_the_bound_holds_for_every_score(width, scale, mean, product_dtype, seed):
    a, b = (scale * (noise(n, width, seed=seed + n) + mean) for n in (5, 8))
    centre = torch.zeros(width)
    scores, errors = module._scores(
        *module._centred(a, centre, product_dtype, "a"), *module._centred(b, centre, product_dtype, "b")
    )
    exact = b.double().square().sum(1) - 2 * a.double() @ b.double().T
    assert ((scores.double() - exact).abs() <= errors).all()


@pytest.mark.parametrize(("product_dtype", "most"), [(torch.float32, 1.5), (torch.bfloat16, 3)])
def test_few_pairs_are_measured(monkeypatch, product_dtype, most):
    """The bound is tight enough to be of use: without it the search would measure 1000 pairs a query."""
    measured = []

    def counted(a, rows, b, columns, measure=module._squared_distances):
        measured.append(len(rows))
        return measure(a, rows, b, columns)

    monkeypatch.setattr(module, "_squared_distances", counted)
    faces = noise(20, 20_000, seed=2)  # the images vary in 20 ways
    queries, reals = (10 + noise(count, 20, seed=seed) @ faces for count, seed in ((50, 0), (1000, 1)))
    nearest_real(queries, reals, product_dtype=product_dtype)
    assert 50 <= sum(measured) <= most * 50


def peak_memory(function):
    """The most bytes that live at a time, of all that PyTorch allocates in ``function``."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("product_dtype", DTYPES)
@pytest.mark.parametrize(("width", "count", "memory"), [(5, 2000, 2**23), (700, 60, 2**18), (9000, 60, 2**22)])
@pytest.mark.parametrize("same", [False, True], ids=["distinct", "all pairs measured"])
def test_search_keeps_to_its_memory(width, count, memory, product_dtype, same):
    if same:
        count //= 10
    queries, reals = (noise(1 if same else count, width, seed=seed).expand(count, -1).contiguous() for seed in (1, 2))
    peak = peak_memory(lambda: nearest_real(queries, reals, memory=memory, product_dtype=product_dtype))
    assert 0 < peak <= memory


def images(count, spatial_dims, seed, size=12):
    drawn = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, *[size] * spatial_dims, generator=drawn) * 2 - 1


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("product_dtype", DTYPES)
def test_streaming_equals_holding_everything(spatial_dims, product_dtype):
    embedding = RandomFeatureEmbedding(spatial_dims, 1)
    queries, reals = images(11, spatial_dims, 1), images(17, spatial_dims, 2)
    queries[3] = reals[12]
    expected = nearest_real(embed(embedding, queries, batch_size=4), embed(embedding, reals, batch_size=4))
    result = nearest_real_images(queries, reals, embedding, batch_size=4, product_dtype=product_dtype)
    assert torch.equal(result.indices, expected.indices)
    assert torch.equal(result.distances, expected.distances)
    assert result.indices[3] == 12
    # Several passes of smaller batches, whose embeddings may round in another way.
    tight = nearest_real_images(
        queries, reals, embedding, memory=least_memory(embedding, queries), product_dtype=product_dtype
    )
    assert torch.equal(tight.indices, expected.indices)
    torch.testing.assert_close(tight.distances, expected.distances)


def least_memory(embedding, images):
    """What the error of an impossible search asks for."""
    with pytest.raises(ConfigError, match="memory must be at least") as error:
        nearest_real_images(images, images, embedding, memory=1)
    return int(str(error.value).split("at least ")[1].split()[0])


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, 48), (3, 18)])
def test_streaming_never_holds_all_embeddings(spatial_dims, size):
    embedding = RandomFeatureEmbedding(spatial_dims, 1)
    queries, reals = images(40, spatial_dims, 1, size), images(40, spatial_dims, 2, size)
    memory = least_memory(embedding, queries)
    feature_maps = peak_memory(lambda: embedding(reals[:1]))
    peak = peak_memory(lambda: nearest_real_images(queries, reals, embedding, memory=memory))
    assert 0 < peak <= memory + feature_maps < embedding(reals).nbytes


def test_autocast_does_not_reach_an_embedding():
    embedding = RandomFeatureEmbedding(2, 1)
    queries, reals = images(5, 2, 1), images(5, 2, 2)
    plain, nearest = embed(embedding, queries), nearest_real_images(queries, reals, embedding)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embed(embedding, queries), plain)
        assert torch.equal(nearest_real_images(queries, reals, embedding).distances, nearest.distances)


def both_searches(**options):
    """A search of embeddings and two of images; seven and two rows leave ranks with unequal shares and with none."""
    embedding = RandomFeatureEmbedding(3, 1)
    found = nearest_real(noise(7, 30), noise(9, 30, seed=1), **options)
    found += nearest_real_images(images(7, 3, 1), images(5, 3, 2), embedding, batch_size=2, **options)
    return list(found + nearest_real_images(images(2, 3, 1), images(5, 3, 2), embedding, batch_size=2, **options))


def on_rank(rank, folder):
    torch.set_num_threads(1)
    idist.initialize("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(both_searches(distributed=True), folder / f"rank{rank}.pt")
    idist.barrier()
    idist.finalize()


def test_two_ranks_find_the_same(tmp_path):
    mp.spawn(on_rank, args=(tmp_path,), nprocs=2)
    alone = both_searches(distributed=True)  # one rank
    for rank in (0, 1):
        for found, expected in zip(torch.load(tmp_path / f"rank{rank}.pt", weights_only=True), alone, strict=True):
            assert torch.equal(found, expected)


def test_wrong_embeddings_are_refused():
    with pytest.raises(DataError, match="must share E"):
        nearest_real(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DataError, match="must share E"):
        nearest_real(torch.zeros(2, 0), torch.zeros(2, 0))
    with pytest.raises(DataError, match="got 2 and 0"):
        nearest_real(torch.zeros(2, 3), torch.zeros(0, 3))
    with pytest.raises(DataError, match=r"floating-point numbers, got torch\.int64"):
        nearest_real(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    with pytest.raises(DataError, match=r"the reals .* not finite"):
        nearest_real(torch.zeros(2, 3), torch.tensor([[0.0, 1, 2], [0, torch.nan, 0]]), tile=1)
    for wrong in (torch.inf, torch.nan, 1e30):
        with pytest.raises(DataError, match=r"the queries .* not finite"):
            nearest_real(torch.full((1, 3), wrong), torch.zeros(2, 3))


def test_wrong_options_are_refused():
    rows = torch.zeros(2, 3000)
    with pytest.raises(ConfigError, match="tile must be at least 1, got 0"):
        nearest_real(rows, rows, tile=0)
    with pytest.raises(ConfigError, match=r"product_dtype .* got torch\.float16"):
        nearest_real(rows, rows, product_dtype=torch.float16)
    with pytest.raises(ConfigError, match="got 1000: raise it") as error:
        nearest_real(rows, rows, memory=1000)
    least = int(str(error.value).split("at least ")[1].split()[0])
    assert nearest_real(rows, rows, memory=least).indices.tolist() == [0, 0]  # the remedy helps
    with pytest.raises(ConfigError, match=f"at least {least}"):
        nearest_real(rows, rows, memory=least - 1)


def test_wrong_images_are_refused():
    embedding = RandomFeatureEmbedding(2, 1)
    with pytest.raises(DataError, match="images of one shape"):
        nearest_real_images(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 16, 16), embedding)
    with pytest.raises(DataError, match="got 0 and 2"):
        nearest_real_images(torch.zeros(0, 1, 8, 8), torch.zeros(2, 1, 8, 8), embedding)
    with pytest.raises(ConfigError, match="batch_size"):
        nearest_real_images(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), embedding, batch_size=0)
    with pytest.raises(ConfigError, match="memory must be at least"):
        nearest_real_images(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), embedding, memory=1000)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("subjects", [2, 3, 7])
def test_nearest_image_of_another_identity(spatial_dims, subjects):
    """Against all pairs; the nearest image of all is a copy, of the same identity, and must not be taken."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(3 * subjects, 1, *(5,) * spatial_dims, generator=rng)
    images[subjects] = images[0]
    identities = 10 * (torch.arange(3 * subjects) % subjects)
    least = nearest_other_images(images, identities, torch.nn.Flatten(), batch_size=4)
    for i, image in enumerate(images):
        distances = [(image - x).square().sum() for x, y in zip(images, identities, strict=True) if y != identities[i]]
        torch.testing.assert_close(least[i], torch.stack(distances).min())


def by_binary_digits(images, identities, embedding, **options):
    """Two identities differ in a binary digit: for each digit one side searched among the other, both ways."""
    numbers = identities.unique(return_inverse=True)[1]
    least = torch.full((len(images),), torch.inf)
    for digit in range(int(numbers.max()).bit_length()):
        one = (numbers >> digit) & 1 == 1
        for queries, reals in ((one, ~one), (~one, one)):
            found = nearest_real_images(images[queries], images[reals], embedding, **options)
            least[queries] = least[queries].minimum(found.distances)
    return least


@pytest.mark.parametrize("memory", [module.MEMORY, 1_200_000])
def test_one_search_finds_what_many_found(monkeypatch, memory):
    """The same bits, whether the embeddings are held or pass by again and again."""
    rng = torch.Generator().manual_seed(0)
    images, identities = torch.rand(40, 1, 64, 64, generator=rng), torch.randint(7, (40,), generator=rng)
    embedded = []
    embed_batch = module.embed_batch
    monkeypatch.setattr(module, "embed_batch", lambda f, x, d: embedded.append(len(x)) or embed_batch(f, x, d))
    found = nearest_other_images(images, identities, torch.nn.Flatten(), memory=memory)
    assert sum(embedded) == 1 + 40 if memory == module.MEMORY else sum(embedded) > 100
    assert torch.equal(found, by_binary_digits(images, identities, torch.nn.Flatten(), memory=memory))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9), m=st.integers(1, 12), tile=st.sampled_from([None, 1, 3]),
    product_dtype=st.sampled_from(DTYPES), levels=st.sampled_from([None, 2]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_reals_of_the_own_group_are_passed_over(n, m, tile, product_dtype, levels, seed):
    queries, reals = noise(n, 3, seed=seed), noise(m, 3, seed=seed + 1)
    if levels is not None:
        queries, reals = ((side * levels / 2).round() for side in (queries, reals))
    groups = tuple(torch.randint(3, (k,), generator=torch.Generator().manual_seed(seed + k)) for k in (n, m))
    found = nearest_real(queries, reals, tile=tile, product_dtype=product_dtype, groups=groups)
    for row in range(n):
        others = (groups[1] != groups[0][row]).nonzero().flatten()
        if not len(others):
            assert (found.distances[row], found.indices[row]) == (torch.inf, 0)
            continue
        alone = nearest_real(queries[row : row + 1], reals[others])
        assert found.distances[row] == alone.distances[0]
        assert found.indices[row] == others[alone.indices[0]]


def test_one_identity_has_no_other():
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert nearest_other_images(images, torch.ones(3).long(), torch.nn.Flatten()).tolist() == [torch.inf] * 3
    with pytest.raises(DataError, match=r"groups must be \[N\] integers, N = 3: got \(2,\)"):
        nearest_other_images(images, torch.ones(2).long(), torch.nn.Flatten())

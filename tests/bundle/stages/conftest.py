"""The files of all stages up to the release, made once per number of axes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from stage_fakes import (
    K,
    average,
    invert,
    make_dataset,
    make_generator,
    make_inverter,
    make_walk,
    released_to,
    synthesize,
    walk_anchors,
)


@pytest.fixture(scope="module", params=[2, 3])
def case(request, tmp_path_factory):
    """A data set, a generator and the files of all stages up to the release, made once."""
    dims = request.param
    folder = tmp_path_factory.mktemp(f"case{dims}")
    dataset, generator = make_dataset(folder / "data", dims), make_generator(dims)
    private = folder / "output" / "private"
    files = SimpleNamespace(
        latents=private / "latents.pt", report=private / "inversion.json", anchors=private / "anchors.pt",
        paths=private / "paths.pt",
        invert=private / "invert", walk=private / "walk", release=folder / "output" / "release",
    )  # fmt: skip
    invert(
        inverter=make_inverter(generator), dataset=dataset, output_file=files.latents,
        report_file=files.report, parts_dir=files.invert, images_per_part=8,
    )  # fmt: skip
    average(latents_file=files.latents, output_file=files.anchors, k=K)
    walk_anchors(
        walk=make_walk(generator), anchors_file=files.anchors, dataset=dataset, output_file=files.paths,
        parts_dir=files.walk, num_images=7,
    )  # fmt: skip
    synthesize(
        generator=generator, paths_file=files.paths, anchors_file=files.anchors, dataset=dataset,
        name="tiny {synthetic}", **released_to(files.release),
    )  # fmt: skip
    return SimpleNamespace(dims=dims, dataset=dataset, generator=generator, files=files)

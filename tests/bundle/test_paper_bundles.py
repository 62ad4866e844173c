"""The bundles of the paper's benchmarks on folders in the form of the downloads, at toy size: all stages, and the
tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from download_fakes import fake_aptos, fake_shenzhen
from tiny_bundle import TINY

from monai_plan.__main__ import main
from monai_plan.bundle import run_bundle
from monai_plan.data import read_datalist

pytestmark = pytest.mark.usefixtures("clean_logging")

# Of the walk the ids are the bundle's but for its length, and the release is made as the bundle makes it.
KEPT = ("anchor_kind", "walk_kind", "num_points", "walk_coarse_points")
SMALL = {id: value for id, value in TINY.items() if id not in KEPT} | {
    "backbone": "random",
    "min_distance_quantile": None,
    "evaluation_seeds": 1,
}


EACH = pytest.mark.parametrize("bundle", ["chest_xray_tuberculosis_plan", "fundus_retinopathy_plan"])


class Benchmark:
    """A bundle on its fake download."""

    def __init__(self, bundle: str, folder: Path) -> None:
        self.bundle, self.output = bundle, folder / "out"
        shenzhen = "tuberculosis" in bundle
        self.root = (fake_shenzhen if shenzhen else fake_aptos)(folder)
        self.classes, self.training = (2, 24) if shenzhen else (5, 30)
        self.overrides = SMALL | ({} if shenzhen else {"datalist_file#max_per_class": 8})

    def run(self, only: list[str] | None = None) -> set[str]:
        before = sorted(self.root.rglob("*"))
        outcomes = run_bundle(
            self.bundle, dataset_dir=self.root, output_dir=self.output, overrides=self.overrides, only=only,
            echo=lambda line: None,
        )  # fmt: skip
        assert sorted(self.root.rglob("*")) == before, "nothing is written there"
        return {outcome.status for outcome in outcomes}


@EACH
def test_a_benchmark_takes_the_folder_as_it_is(bundle: str, tmp_path: Path) -> None:
    benchmark = Benchmark(bundle, tmp_path)
    assert benchmark.run(only=["check"]) == {"ran"}
    found = json.loads((benchmark.output / "private" / "data.json").read_text())
    assert found["training"]["images"] == benchmark.training
    datalist = read_datalist(benchmark.output / "private" / "cache" / "datalist.json")
    assert len(datalist.labels) == benchmark.classes
    assert benchmark.run(only=["check"]) == {"skipped"}


@pytest.mark.slow
@EACH
def test_a_benchmark_runs_whole(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = Benchmark(bundle, tmp_path)
    assert benchmark.run() == {"ran"}
    release = benchmark.output / "release"
    items = read_datalist(release / "datalist.json").sections["training"]
    assert {item["label"] for item in items} == set(range(benchmark.classes))
    rows = json.loads((release / "audit.json").read_text())["rows"]
    assert {"copies", "generator"} <= {row["name"] for row in rows}
    assert benchmark.run() == {"skipped"}
    capsys.readouterr()
    assert main(["evaluate", str(benchmark.output), "--protocol", "plan", "--seeds", "1", "--ks", "2"]) == 0
    tables = capsys.readouterr().out
    for row in ("| real |", "| linear |", "| PLAN |", "| PLAN, k = 2 |"):
        assert row in tables

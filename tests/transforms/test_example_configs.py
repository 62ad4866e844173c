"""The example configs, as ``python -m monai.bundle run`` runs them: with the line no real training image is opened."""

from __future__ import annotations

import json
from pathlib import Path

import monai.bundle
import monai.data
import pytest
import torch

from monai_plan.data import make_phantoms
from monai_plan.release import write_synthetic

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {
    "classification_template": {
        "network_def": {
            "_target_": "DenseNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "init_features": 4,
            "growth_rate": 4, "block_config": [1, 1],
        },
    },
    "volume_classification": {"network_def#block_inplanes": [4, 4, 4, 4]},
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("clean_logging")


@pytest.fixture(scope="module", params=[2, 3])
def case(request, tmp_path_factory):
    """(The config, real phantoms, a release of noise.)"""
    dims, root = request.param, tmp_path_factory.mktemp("case")
    name = "classification_template" if dims == 2 else "volume_classification"
    make_phantoms(root / "data", spatial_dims=dims, img_size=16, num_subjects=4, num_test_subjects=4, seed=1)
    noise = torch.rand(12, 1, *[16] * dims, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_synthetic(
        root / "release", images=noise, labels=[i % 2 for i in range(12)], label_names={0: "none", 1: "lesion"},
        groups=list(range(12)), name="noise", description="noise",
    )  # fmt: skip
    return name, root


@pytest.mark.parametrize("synthetic", [False, True])
def test_a_config_trains_with_and_without_the_line(case, synthetic, tmp_path, monkeypatch):
    name, root = case
    opened = []
    for reader in (monai.data.PILReader, monai.data.NibabelReader, monai.data.ITKReader):
        original = reader.read

        def read(self, data, original=original, **options):
            opened.append(str(data))
            return original(self, data, **options)

        monkeypatch.setattr(reader, "read", read)
    options = {"release_dir": str(root / "release")} if synthetic else {}
    size = 2 if name == "classification_template" else 3
    monai.bundle.run(
        config_file=str(EXAMPLES / name / "configs" / "train.json"),
        dataset_dir=str(root / "data"),
        output_dir=str(tmp_path),
        epochs=1,
        img_size=[16] * size,
        device="cpu",
        logging_file=False,
        **SMALL[name],
        **options,
    )
    content = json.loads((root / "data" / "datalist.json").read_text())
    for section, expected in (("training", not synthetic), ("test", True)):
        names = [str(root / "data" / item["image"]) for item in content[section]]
        assert any(name in text for name in names for text in opened) == expected, section
    assert any("release" in text for text in opened) == synthetic
    assert (tmp_path / "model.pt").is_file()
    assert (tmp_path / "metrics.csv").read_text().startswith("auc")

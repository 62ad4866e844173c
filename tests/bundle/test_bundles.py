"""The bundles: their files and metadata; and the configs and stages of the one that all others are made of."""

from __future__ import annotations

import importlib
import json
import logging.config
import pydoc
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow, ReferenceResolver
from PIL import Image
from tiny_bundle import TINY

import monai_plan
import monai_plan.gan
import monai_plan.networks
from monai_plan.bundle.names import TEMPLATE
from monai_plan.bundle.options import OPTIONS
from monai_plan.bundle.runner.configs import make_plans
from monai_plan.bundle.runner.stages_file import load_stages
from monai_plan.bundle.zoo import bundles
from monai_plan.latent import InversionSettings, WalkSettings
from monai_plan.networks import latent_items, load_generator
from monai_plan.utils import ConfigError

pytestmark = pytest.mark.usefixtures("clean_logging")

ROOT = Path(__file__).parents[2] / "bundles"
BUNDLES = sorted(path for path in ROOT.iterdir() if (path / "configs").is_dir())
REQUIRED = {  # what the model zoo's metadata schema asks for
    "schema",
    "version",
    "changelog",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
}
TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}
NOT_A_CONFIG = {"metadata.json", "stages.json"}


def _json(bundle: Path, name: str) -> Any:
    return json.loads((bundle / "configs" / name).read_text(encoding="utf-8"))


def _configs(bundle: Path) -> list[Path]:
    return [path for path in sorted((bundle / "configs").glob("*.json")) if path.name not in NOT_A_CONFIG]


def _stages(bundle: Path) -> list[dict[str, Any]]:
    return _json(bundle, "stages.json")["stages"]


def _leaves(config: Any, id: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict | list):
        for _, sub_id, value in ReferenceResolver.iter_subconfigs(id, config):
            yield from _leaves(value, sub_id)
    else:
        yield id, config


EACH_BUNDLE = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
# the others have the same configs with other values of ids, see tests/bundle/zoo
THE_TEMPLATE = pytest.mark.parametrize("bundle", [ROOT / TEMPLATE], ids=lambda path: path.name)


def test_there_are_bundles() -> None:
    assert {"chest_xray_plan", "phantom_plan"} <= {path.name for path in BUNDLES}
    assert list(bundles().values()) == BUNDLES


@EACH_BUNDLE
def test_files(bundle: Path) -> None:
    """As the zoo wants them; no code, no data, and of weights what metadata.json vouches for."""
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", bundle.name)
    for name in ("LICENSE", "configs/metadata.json", "configs/stages.json", "configs/train.json", "docs/README.md"):
        assert (bundle / name).is_file(), name
    assert "Apache License" in (bundle / "LICENSE").read_text()
    known = {"", ".json", ".conf", ".md", ".txt"} | (
        {".pt"} if "provenance" in _json(bundle, "metadata.json") else set()
    )
    others = [path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file() and path.suffix not in known]
    assert [path.as_posix() for path in others] == [f"ci/unit_tests/test_{bundle.name}.py"]


@EACH_BUNDLE
def test_metadata(bundle: Path) -> None:
    metadata = _json(bundle, "metadata.json")
    assert metadata.keys() >= REQUIRED
    assert metadata["version"] in metadata["changelog"]
    assert metadata["monai_plan_version"] == monai_plan.__version__
    data_format = metadata["network_data_format"]
    assert data_format["inputs"]["image"].keys() >= TENSOR
    assert data_format["outputs"]["pred"].keys() >= TENSOR
    for name in ("train.json", "inference.json"):  # without data as with it
        parser = ConfigParser(_json(bundle, name))
        parser.get_parsed_content("imports")
        latent = [parser.get_parsed_content(id) for id in ("z_dim", "num_classes")]
        assert data_format["inputs"]["image"]["num_channels"] == sum(latent)
        assert len(data_format["inputs"]["image"]["channel_def"]) == 1 + latent[1]
        assert data_format["outputs"]["pred"]["spatial_shape"] == parser.get_parsed_content("img_size")
        assert data_format["outputs"]["pred"]["num_channels"] == parser.get_parsed_content("img_channels")


@EACH_BUNDLE
def test_a_folder_may_be_called_a_number(bundle: Path) -> None:
    """MONAI's command line reads 2025 as one."""
    for name in ("common.json", "train.json"):
        parser = ConfigParser(_json(bundle, name))
        parser.update({"dataset_dir": 2024, "output_dir": 2025})
        if isinstance(parser["datalist_file"], str):
            assert parser.get_parsed_content("datalist_file") == "2024/datalist.json"
        assert parser.get_parsed_content("private_dir") == "2025/private"


@THE_TEMPLATE
def test_logging_can_be_configured(bundle: Path) -> None:
    logging.config.fileConfig(str(bundle / "configs" / "logging.conf"), disable_existing_loggers=False)
    assert logging.getLogger("monai_plan.bundle.stages").isEnabledFor(logging.INFO)


@EACH_BUNDLE
def test_configs_name_no_machine(bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".conf", ".md"):
            assert not re.search(r"(?<![\w/])/(home|work|root|tmp|mnt|data)/", path.read_text(encoding="utf-8")), path


@THE_TEMPLATE
def test_targets_of_ours_are_written_in_full(bundle: Path) -> None:
    """A short name of ours would be found only once the package is imported, and could hide one of MONAI's."""
    locator = ComponentLocator(excludes=["monai_plan"])
    found = 0
    for file in _configs(bundle):
        for id, value in _leaves(json.loads(file.read_text())):
            if id.split("::")[-1] != "_target_":
                continue
            if "." not in value:
                assert locator.get_component_module_name(value) is not None, f"{file.name} {id}: {value}"
                continue
            assert callable(pydoc.locate(value)), f"{file.name} {id}: {value}"
            of_class = re.fullmatch(r"(.*\.[A-Z]\w*)\.\w+", value)  # a classmethod: the class is what must be public
            module, _, name = (of_class[1] if of_class else value).rpartition(".")
            if value.startswith("monai_plan."):
                found += 1
                assert name in importlib.import_module(module).__all__, value
    assert found > 5


@THE_TEMPLATE
def test_each_config_finds_what_it_calls_in_a_fresh_process(bundle: Path) -> None:
    """``monai_plan.networks.f`` in an expression works only if the config's imports load that module.

    Within one process an earlier stage may have loaded it; ``python -m monai.bundle run`` of one stage has not.
    """
    code = """
import json, re, sys
imports, names = json.loads(sys.stdin.read())
scope = {}
for line in imports:
    exec(line, scope)
missing = []
for name in names:
    try:
        eval(name, scope)
    except (AttributeError, NameError):
        missing.append(name)
print(json.dumps(missing))
"""
    used: dict[tuple[str, ...], set[str]] = {}  # by what a stage imports, so that one process serves all alike
    for stage in _stages(bundle):
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / name) for name in stage["config"]])
        imports = tuple(line.removeprefix("$") for line in parser["imports"])
        expressions = [value for _, value in _leaves(parser.get()) if isinstance(value, str) and value.startswith("$")]
        names = {name for text in expressions for name in re.findall(r"\bmonai_plan(?:\.\w+)+", text)}
        used.setdefault(imports, set()).update(names)
    for imports, names in used.items():
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            input=json.dumps([imports, sorted(names)]),
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout.splitlines()[-1]) == [], f"not loaded by {imports}"


@THE_TEMPLATE
def test_what_a_stage_reads_an_earlier_one_wrote(bundle: Path) -> None:
    written: list[str] = []
    for stage in _stages(bundle):
        assert stage.keys() == {"name", "config", "reads", "writes"}
        assert set(stage["reads"]) <= set(written), stage["name"]
        assert not set(stage["writes"]) & set(written), stage["name"]
        assert all(path.split("/")[0] in ("private", "release") for path in stage["writes"])
        written += stage["writes"]
    released = [path for path in written if path.startswith("release/")]
    assert {"release/images", "release/datalist.json", "release/report.html"} <= set(released)


# what a stage finds in the folder of a file that it names: no id of the configs leads to it
FOUND_BESIDE = {"release/images"}  # the data list says where they are


@THE_TEMPLATE
def test_every_file_that_a_stage_reaches_is_declared(bundle: Path, tmp_path: Path) -> None:
    """And no other: with any of its reads and writes struck out, a stage is refused."""
    paths = {"dataset_dir": "/data", "output_dir": "/output", "bundle_root": str(bundle)}
    for stage in load_stages(bundle):
        make_plans([stage], {}, paths)
        for kind in ("reads", "writes"):
            for path in set(getattr(stage, kind)) - FOUND_BESIDE:
                fewer = replace(stage, **{kind: tuple(other for other in getattr(stage, kind) if other != path)})
                with pytest.raises(ConfigError, match=rf"stage {stage.name}: config id \S+ leads to {path} in"):
                    make_plans([fewer], {}, paths)


@THE_TEMPLATE
def test_every_config_is_a_stage_s_and_laid_over_common(bundle: Path) -> None:
    used = {name for stage in _stages(bundle) for name in stage["config"]}
    assert used | {"inference.json", "multi_gpu.json", "multi_gpu_train.json"} == {
        path.name for path in _configs(bundle)
    }
    before_a_generator = ("train", "train_autoencoder")
    over_common = [stage for stage in _stages(bundle) if stage["name"] not in before_a_generator]
    assert all(stage["config"][0] == "common.json" for stage in over_common)


@THE_TEMPLATE
def test_train_says_what_common_says(bundle: Path) -> None:
    """It stands alone, so the two have ids in common: with one value."""
    common, train = (_json(bundle, name) for name in ("common.json", "train.json"))
    both = (common.keys() & train.keys()) - {"imports"}
    assert len(both) > 15
    assert {id: common[id] for id in both} == {id: train[id] for id in both}


# what the checkpoint says itself by its images or networks, what does not change the training, and its length
NOT_NAMED = {
    "img_size", "img_channels", "num_classes", "spatial_dims", "z_dim", "w_dim", "channel_base", "channel_max",
    "backbone", "backbone_weights", "intensity", "intensity_range", "intensity_percentiles", "spacing",
    "skip_bad_images", "merge_duplicates", "perceptual", "perceptual_weights", "device", "amp", "tensorboard",
    "use_best", "metric_images", "total_images", "minutes", "autoencoder", "shape_by",
}  # fmt: skip


@THE_TEMPLATE
def test_a_checkpoint_names_every_option_of_its_training(bundle: Path) -> None:
    """So that a stage run alone with another one does not go on from it."""
    train = _json(bundle, "train.json")
    (handler,) = [entry for entry in train["train"]["handlers"] if "inputs" in entry]
    assert train.keys() & OPTIONS.keys() == (handler["inputs"].keys() & OPTIONS.keys()) | (train.keys() & NOT_NAMED)
    encoder = _json(bundle, "train_encoder.json")
    (handler,) = [entry for entry in encoder["train"]["handlers"] if "inputs" in entry]
    assert encoder.keys() & OPTIONS.keys() == handler["inputs"].keys() - {"generator", "seed"}


@THE_TEMPLATE
def test_later_configs_do_not_undo_each_other_s_ids(bundle: Path) -> None:
    """An id that two files of one stage define is one of the layers meant to be replaced, and no accident.

    But for what train.json says again of common.json, because it stands alone.
    """
    layers = {"imports", "stage", "run", "initialize", "train"}
    # the check builds what later stages do, of untrained networks; φ_id's training says how many it knows
    own = {
        "check": {
            "trained_generator",
            "encoder",
            "num_identities",
            "identity_net",
            "class_net",
            "work_dir",
            "trained_coder",
        },
        "train_identity": {"num_identities"},
    }
    for stage in _stages(bundle):
        meant = layers | own.get(stage["name"], set())
        shared = _json(bundle, "common.json")
        contents = [
            {id for id, value in _json(bundle, name).items() if name != "train.json" or shared.get(id) != value}
            for name in stage["config"]
        ]
        for first, second in combinations(contents, 2):
            assert (first & second) <= meant, stage["name"]


def _workflow(bundle: Path, names: list[str], finished: Path, patients: Path) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in names],
        workflow_type="train",
        bundle_root=str(bundle),
        dataset_dir=str(patients),
        output_dir=str(finished),
        **TINY,
    )


def test_a_wrong_reference_is_found(tmp_path: Path, finished: Path, patients: Path) -> None:
    """That ``check_properties`` finds nothing below means something."""
    config = _json(ROOT / "chest_xray_plan", "train.json")
    config["my_handlers"] = config["train"].pop("handlers")
    config["train"]["trainer"]["train_handlers"] = "@my_handlers"
    config["my_handlers"][3]["save_dict"]["best"] = "@my_handlers#2"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps(config))
    shutil.copy(ROOT / "chest_xray_plan" / "configs" / "metadata.json", tmp_path / "configs")
    workflow = _workflow(tmp_path, ["train.json"], finished, patients)
    workflow.initialize()
    assert workflow.check_properties() == ["train_handlers"]


def test_monai_finds_its_properties(finished: Path, patients: Path) -> None:
    """Without this MONAI's tools (and the zoo's) do not find the trainer, the data and the rest."""
    bundle = ROOT / "chest_xray_plan"
    workflow = _workflow(bundle, ["train.json"], finished, patients)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.max_epochs == TINY["total_images"] // TINY["epoch_images"]
    assert len(workflow.train_dataset) > 0
    assert workflow.network_def is not None


def _parsed(finished: Path, patients: Path, what: str, **overrides: Any) -> Any:
    bundle = ROOT / "chest_xray_plan"
    parser = ConfigParser()
    config = "invert.json" if what == "inverter" else "walk.json"
    parser.read_config([str(bundle / "configs" / name) for name in ("common.json", config)])
    parser.update({**TINY, "dataset_dir": str(patients), "output_dir": str(finished), **overrides})
    return parser.get_parsed_content(what)


def test_inference_stands_alone(finished: Path, patients: Path, tmp_path: Path) -> None:
    """Images of G for a look on the private side: they have not passed the door."""
    bundle = ROOT / "chest_xray_plan"
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"), workflow_type="inference", bundle_root=str(bundle),
        dataset_dir=str(patients), output_dir=str(finished), preview_dir=str(tmp_path), num_images=5, device="cpu",
        generator_file=str(finished / "private" / "model.pt"),
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    pictures = {file.stem: np.asarray(Image.open(file)) for file in sorted(tmp_path.iterdir())}
    assert list(pictures) == ["class_0_0000", "class_0_0002", "class_0_0004", "class_1_0001", "class_1_0003"]
    assert {picture.shape for picture in pictures.values()} == {(16, 16)}
    assert len({picture.tobytes() for picture in pictures.values()}) == 5
    generator = load_generator(finished / "private" / "model.pt")
    for number, name in enumerate(sorted(pictures, key=lambda name: name[-4:])):
        item = latent_items(generator.z_dim, 2, num_images=5)[number]["image"].as_tensor()[None]
        with torch.no_grad():
            image = generator.synthesis(generator.mapping(item[:, :-2], torch.tensor([number % 2])))
        assert np.abs(pictures[name] - ((image[0, 0].clamp(-1, 1) + 1) * 127.5).T.numpy()).max() <= 1


@pytest.mark.parametrize("points", [50, 32])
def test_the_bundle_walks_and_inverts_by_the_fast_settings(points: int, finished: Path, patients: Path) -> None:
    default = {"walk_steps": None, "walk_coarse_points": None}  # which TINY overrides
    default |= {"inversion_steps": None, "inversion_starts": None}
    walk = _parsed(finished, patients, "walk", num_points=points, **default)
    assert walk.settings == WalkSettings.fast(points, lambda_terms={"margin": 0.0}, min_end_distance=0.375)
    for init in ("encoder", "mean"):
        inverter = _parsed(finished, patients, "inverter", inversion_init=init, **default)
        assert inverter.settings == InversionSettings.fast(encoder=init == "encoder")


def test_the_walk_is_the_published_one_if_asked(
    finished: Path, patients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A term of weight 0 is not built: no image is embedded."""

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("monai_plan.latent.MarginTerm", refuse)
    walk = _parsed(
        finished, patients, "walk", walk_steps=500, num_points=50, walk_schedule="constant", walk_beta2=0.999,
        walk_coarse_points=0, min_end_distance=0.0,
    )  # fmt: skip
    assert replace(walk.settings, lambda_terms={}) == WalkSettings.published()


def test_every_option_of_the_walk_and_the_inversion_reaches_it(finished: Path, patients: Path) -> None:
    expected = WalkSettings(
        num_points=9, steps=3, lr=0.2, schedule="constant", beta2=0.9, coarse_points=4, coarse_steps=5,
        lambda_id=0.5, lambda_class=0.6, lambda_terms={"margin": 0.3}, normalize=True, min_end_distance=0.2, amp=True,
    )  # fmt: skip
    plain = {"num_points", "lambda_id", "lambda_class", "min_end_distance"}
    ids = {name if name in plain else f"walk_{name}": value for name, value in expected.as_dict().items()}
    ids |= {"lambda_margin": ids.pop("walk_lambda_terms")["margin"]}
    walk = _parsed(finished, patients, "walk", **ids, points_per_batch=11)
    assert walk.settings == expected
    assert walk.pairs_per_batch == 11 // walk.settings.num_moving
    assert walk.terms["margin"].margin > 0
    other = _parsed(finished, patients, "walk", lambda_margin=0.3, walk_margin=0.7)
    assert other.terms["margin"].margin.item() == pytest.approx(0.7)
    w_a, w_b = torch.randn(2, TINY["w_dim"], generator=torch.Generator().manual_seed(0))
    assert other(w_a, w_b, 1).losses["margin"].isfinite().all()

    changes = {"space": "w_plus", "steps": 7, "lr": 0.3, "starts": 4, "patience": 3, "tolerance": 0.02}
    ids = {f"inversion_{name}": value for name, value in changes.items()}
    inverter = _parsed(finished, patients, "inverter", **ids)
    assert inverter.settings == InversionSettings.fast(encoder=True, **changes)


@pytest.mark.parametrize(
    ("objective", "of", "weights"),
    [
        ("aided", monai_plan.gan.AidedDiscriminator, (0.0032, 0.0, 16)),
        ("logistic", monai_plan.networks.StyleGAN2Discriminator, (0.0032, 0.0, 16)),
        ("relativistic", monai_plan.networks.StyleGAN2Discriminator, (0.0032, 0.0032, 4)),
        ("hinge", monai_plan.gan.ProjectedDiscriminator, (0.0, 0.0, 16)),
    ],
)
def test_an_objective_brings_its_discriminator_and_regularisers(
    objective: str, of: type, weights: tuple[float, float, int], patients: Path, tmp_path: Path
) -> None:
    """Its name is all that has to be said; and it trains."""
    bundle = ROOT / "chest_xray_plan"
    overrides = TINY | {"objective": objective, "backbone": "random", "aid_weight": 0.7, "total_images": 32}
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.json"), workflow_type="train", bundle_root=str(bundle),
        dataset_dir=str(patients), output_dir=str(tmp_path), **overrides,
    )  # fmt: skip
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    assert type(trainer.discriminator) is of
    assert (trainer.r1_weight, trainer.r2_weight, trainer.r1_interval) == pytest.approx(weights)
    workflow.run()
    assert (trainer.adaptive is None) == (objective == "hinge")
    if objective == "aided":
        assert trainer.objective.d_loss.keywords == {"aid_weight": 0.7}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("img_channels", "img_size", "objective"),
    [(1, [64, 64], "aided"), (2, [64, 64], "logistic"), (1, [32, 32], "logistic")],
)
def test_the_default_objective(img_channels: int, img_size: list[int], objective: str) -> None:
    """With the weights that come with the installation, where pretrained features can help."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "chest_xray_plan" / "configs" / "train.json"))
    parser.update({"img_channels": img_channels, "img_size": img_size, "device": "cpu"})
    assert parser.get_parsed_content("defaults").objective == objective
    found = parser.get_parsed_content("discriminator")
    assert isinstance(found, monai_plan.gan.AidedDiscriminator) == (objective == "aided")


@pytest.mark.parametrize(("stage", "epsilon"), [("train_identity", 0.1), ("train_class", 0.0)])
def test_only_the_identity_net_is_trained_on_adversarial_images(
    stage: str, epsilon: float, finished: Path, patients: Path
) -> None:
    bundle = ROOT / "chest_xray_plan"
    (names,) = [entry["config"] for entry in _stages(bundle) if entry["name"] == stage]
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in names])
    parser.update({**TINY, "dataset_dir": str(patients), "output_dir": str(finished), "identity_epsilon": 0.1})
    assert parser.get_parsed_content("stage").settings.epsilon == epsilon

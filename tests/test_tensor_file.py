"""Files of tensors by an attacker: refused before anything is built of them, whatever loads them."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from monai_plan.bundle.anchor_maker import AnchorMaker
from monai_plan.networks import StyleGAN2Generator, classifier_outputs, load_generator, save_classifier, save_generator
from monai_plan.tensor_file import load_tensors
from monai_plan.utils import ArtifactError, load_artifact, save_artifact

DEEP = b"\x80\x02})" + b"\x85" * 2_000_000 + b"Ns."  # {((((…),),),): None}, whose hash would exhaust the stack
LOADERS = """
import logging, sys, io, torch
from ignite.engine import Engine
from monai_plan.engines import ResumeHandler
from monai_plan.metrics import SqueezeNetEmbedding
from monai_plan.metrics.efficientnet import EfficientNetLite0Features
from monai_plan.networks import load_generator
from monai_plan.tensor_file import load_tensors
def resume(path):
    lines = []
    logging.getLogger("monai_plan.engines.handlers").warning = lambda text, *values: lines.append(text % values)
    ResumeHandler(path=path, save_dict={"a": torch.nn.Linear(1, 1)}).load(Engine(lambda *_: 0))
    raise ValueError(*lines)
zipped, legacy = sys.argv[1:]
for file in (zipped, legacy):
    for load in (
        load_generator,
        resume,
        EfficientNetLite0Features().load,
        SqueezeNetEmbedding,
        lambda path: load_tensors(io.BytesIO(open(path, "rb").read())),
    ):
        try:
            load(file)
        except Exception as error:
            assert "more than 100 levels" in str(error), error
            print("refused")
"""


def repacked(file: Path, *, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """The same archive with other contents of some parts, by the last of their names without the ending."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression=compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, parts.get(Path(name).stem, content))
    return file


def test_no_loader_dies_of_nesting(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "zip.pt")
    repacked(tmp_path / "zip.pt", data=DEEP)
    start = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    legacy = b"".join(pickle.dumps(value, 2) for value in start) + DEEP + pickle.dumps([], 2)
    (tmp_path / "legacy.pt").write_bytes(legacy)
    command = [sys.executable, "-c", LOADERS, str(tmp_path / "zip.pt"), str(tmp_path / "legacy.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * 10), done.stderr[-2000:]


def test_nesting_by_the_memo_is_seen() -> None:
    twice = b"".join(b"q%ch%c\x86" % (n, n) for n in range(101))  # ((…, …), …) of 2¹⁰⁰ values in 600 bytes
    start = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    file = b"".join(pickle.dumps(value, 2) for value in start) + b"\x80\x02)" + twice + b"." + pickle.dumps([], 2)
    with pytest.raises(ValueError, match="more than 100 levels"):
        load_tensors(io.BytesIO(file))


def test_plain_content_of_both_formats_is_read(tmp_path: Path) -> None:
    content = {"a": torch.arange(3.0), "b": [{"c": (1, torch.Size([2]))} for _ in range(300)], "d": {(0, 1): "e"}}
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        with open(tmp_path / "a.pt", "rb") as file:
            assert str(load_tensors(file)) == str(content)


def test_a_small_file_makes_no_large_tensors(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    save_artifact(file, kind="path", data={"path": torch.zeros(1_000_000), "losses": {}})
    repacked(file, compression=zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 20_000
    with pytest.raises(ArtifactError, match=r"a\.pt cannot be read as path.*compressed"):
        load_artifact(file, kind="path")
    save_artifact(file, kind="path", data={"path": torch.zeros(1).expand(10**12), "losses": {}})
    with pytest.raises(ArtifactError, match=r"shape \[1000000000000\] has fewer values in the file"):
        load_artifact(file, kind="path")


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("anchors", {"latents": [0.0]}, "has a list as latents"),
        ("class_net", {"network": "ResNet", "num_outputs": "2", "state_dict": {}}, "has a str as num_outputs"),
        ("path", {"path": torch.tensor([0, torch.nan]), "losses": {}}, "has values in path that are not finite"),
        (
            "path",
            {"path": torch.zeros(1), "losses": {"a": torch.tensor(torch.inf)}},
            "has values in losses that are not",
        ),
    ],
)
def test_what_is_wrong_in_an_artefact_is_named(tmp_path: Path, kind, data, message) -> None:
    save_artifact(tmp_path / "a.pt", kind=kind, data=data)
    with pytest.raises(ArtifactError, match=rf"a\.pt {message}"):
        load_artifact(tmp_path / "a.pt", kind=kind)


def test_what_an_artefact_lacks_is_named(tmp_path: Path) -> None:
    save_artifact(tmp_path / "a.pt", kind="generator", data={"network": "StyleGAN2Generator", "architecture": {}})
    with pytest.raises(ArtifactError, match=r"a\.pt has no state_dict: run the stage that writes the generator again"):
        load_generator(tmp_path / "a.pt")
    save_artifact(tmp_path / "a.pt", kind="latents", data={"latents": torch.zeros(1)})
    nothing = dict.fromkeys(("generator", "identity_net", "class_net", "selection", "training", "test", "embedding"))
    maker = AnchorMaker(latents_file=tmp_path / "a.pt", k=2, **nothing)
    with pytest.raises(ArtifactError, match=r"a\.pt has no best: run the stage that writes the latents again"):
        maker.k_same()


@pytest.mark.parametrize(
    "change",
    [
        {"mapping_layers": 1_000_000},
        {"mapping_layers": 10**12},
        {"z_dim": 10**12},
        {"channel_base": 2**62, "channel_max": 2**62},
        {"img_size": [2**60, 2**60]},
        {"num_classes": 10**15},
        {"mapping_layers": "3"},
        {"img_size": {}},
    ],
)
def test_an_architecture_is_compared_before_it_is_built(tmp_path: Path, change) -> None:
    generator = StyleGAN2Generator(2, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=3)
    generator.architecture |= change
    save_generator(generator, tmp_path / "model.pt")
    start = time.monotonic()
    with pytest.raises(ArtifactError, match=r"model\.pt: the weights do not fit the architecture"):
        load_generator(tmp_path / "model.pt")
    assert time.monotonic() - start < 10


def test_weights_that_are_no_weights(tmp_path: Path) -> None:
    generator = StyleGAN2Generator(2, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=3)
    with torch.no_grad():
        generator.synthesis.blocks[0].const.fill_(torch.nan)
    save_generator(generator, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"model\.pt has values in state_dict that are not finite"):
        load_generator(tmp_path / "model.pt")
    save_classifier(torch.nn.Linear(3, 2), tmp_path / "net.pt", kind="class_net", num_outputs=10**9)
    with pytest.raises(ArtifactError, match=r"net\.pt says 1000000000 outputs, but no tensor in it has as many"):
        classifier_outputs(tmp_path / "net.pt", kind="class_net")

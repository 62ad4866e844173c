"""What MONAI's own tools say of a bundle: its properties, its network, its weights, its export."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out

from monai_plan.bundle.zoo.check_files import inference_config
from monai_plan.bundle.zoo.findings import Finding, error, warning
from monai_plan.bundle.zoo.stand_in import stand_in_data
from monai_plan.networks import save_autoencoder
from monai_plan.utils import first_line

__all__ = ["check_running"]

Tried = Callable[..., list[Finding]]  # ``_tried`` with its first argument
NETWORK = "network_def"  # the zoo looks for this id alone
_MEND = "Mend the config."


def check_running(
    folder: Path, work: Path, *, begin: Callable[[str], object], dataset_dir: Path | None = None
) -> list[Finding]:
    """Build what the configs describe, as the zoo's checks do it: this executes them, on the CPU and from any folder.

    They may do what they like to this process: see ``run_apart``.

    Args:
        folder: of the bundle, whose metadata is in order.
        work: an empty folder to write to.
        begin: told the rule that is looked at next.
        dataset_dir: data for the training's config; by default, for a bundle of ours, a stand-in is made.
    """
    inference = inference_config(folder)
    if inference is None:
        return []
    tried = partial(_tried, begin)
    with _quiet():
        found = tried("network", "cannot be built", lambda: _network(folder, inference))
        if not found:
            found += tried(
                "network", "cannot be built", lambda: found.extend(_check_weights(tried, folder, inference, work))
            )
            found += tried("network.in_out", "does not fit the metadata", lambda: _verify_shapes(folder, inference))
        found += _check_properties(tried, folder, inference, "inference", {"output_dir": str(work / "out")})
        if (folder / "configs" / "train.json").is_file():
            found += _check_train(tried, folder, dataset_dir, work)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """No log, no warning, and no ``__pycache__`` in the bundle."""
    writes_code, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        sys.dont_write_bytecode = writes_code


def _tried(
    begin: Callable[[str], object], id: str, what: str, action: Callable[[], Any], remedy: str = _MEND
) -> list[Finding]:
    """Nothing, or the error that the action raised; configs and MONAI may raise anything, and end the program."""
    begin(id)
    try:
        action()
    except (Exception, SystemExit) as problem:
        while isinstance(problem.__cause__, Exception | SystemExit):
            problem = problem.__cause__  # MONAI wraps what happened
        reason = f"{type(problem).__name__}: {first_line(problem)}" if str(problem) else type(problem).__name__
        return [error(id, f"{NETWORK if id.startswith('network') else 'the bundle'} {what} ({reason}).", remedy)]
    return []


def _parser(folder: Path, config: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(config))
    parser.read_meta(str(folder / "configs" / "metadata.json"))
    parser.update({"bundle_root": str(folder), "device": "cpu"})
    return parser


def _network(folder: Path, config: Path) -> torch.nn.Module:
    network: torch.nn.Module = _parser(folder, config).get_parsed_content(NETWORK)
    return network


def _verify_shapes(folder: Path, config: Path) -> None:
    """MONAI's check of channels and type, and of the image's size, which MONAI does not look at."""
    metadata = str(folder / "configs" / "metadata.json")
    verify_net_in_out(NETWORK, metadata, str(config), device="cpu", bundle_root=str(folder))
    data_format = _parser(folder, config)["_meta_"]["network_data_format"]
    image, pred = data_format["inputs"]["image"], data_format["outputs"]["pred"]
    shapes = (*image["spatial_shape"], *pred["spatial_shape"])
    if not all(isinstance(length, int) for length in shapes):
        return  # "*" and the like: any size will do
    with torch.no_grad():
        output = _network(folder, config).eval()(torch.rand(1, image["num_channels"], *image["spatial_shape"]))
    if list(output.shape[2:]) != pred["spatial_shape"]:
        raise ValueError(f"it gives {list(output.shape[2:])}, and the metadata promises {pred['spatial_shape']}")


def _check_weights(tried: Tried, folder: Path, config: Path, work: Path) -> list[Finding]:
    """That the weights are a plain state dict of this network, and that it can be exported with them, or with
    others."""
    file = folder / "models" / "model.pt"
    network = _network(folder, config)
    if file.is_file():
        found = tried(
            "weights", "cannot use models/model.pt", lambda: _load(file, network),
            "It must be a plain state dict of network_def: names and tensors, nothing else.",
        )  # fmt: skip
        if found:
            return found
    else:
        file = work / "untrained.pt"
        torch.save(network.state_dict(), file)
    for trace in (False, True):
        way = "trace" if trace else "script"
        found = tried(
            f"export.{way}", f"cannot be exported (ckpt_export, {way})", _exporter(folder, config, file, work, trace)
        )
        if found:
            return found
    return []


def _load(file: Path, network: torch.nn.Module) -> None:
    content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError("it holds more than names and tensors")
    network.load_state_dict(content)


def _exporter(folder: Path, config: Path, weights: Path, work: Path, trace: bool) -> Callable[[], None]:
    def export() -> None:
        target = work / "exported.ts"
        ckpt_export(
            net_id=NETWORK, filepath=str(target), ckpt_file=str(weights), config_file=str(config), use_trace=trace,
            meta_file=str(folder / "configs" / "metadata.json"), bundle_root=str(folder), device="cpu",
        )  # fmt: skip
        torch.jit.load(str(target))

    return export


def _check_train(tried: Tried, folder: Path, dataset_dir: Path | None, work: Path) -> list[Finding]:
    if dataset_dir is None:
        if not (folder / "configs" / "stages.json").is_file():
            text = "configs/train.json was not looked at: it needs data."
            return [warning("properties.train", text, "Give --dataset_dir.")]
        dataset_dir = work / "data"
        found = tried("properties.train", "has no place for data", lambda: stand_in_data(folder, work / "data"))
        if found:
            return found
    paths = {"dataset_dir": str(dataset_dir), "output_dir": str(work / "out")}
    found = tried("properties.train", "has no autoencoder", lambda: _untrained_autoencoder(folder, paths))
    return found or _check_properties(tried, folder, folder / "configs" / "train.json", "train", paths)


def _untrained_autoencoder(folder: Path, paths: Mapping[str, str]) -> None:
    """Where train.json goes on from an autoencoder that an earlier stage trains, put one there that is not trained."""
    parser = _parser(folder, folder / "configs" / "train.json")
    parser.update({**paths})
    if "coder" in parser:
        save_autoencoder(parser.get_parsed_content("coder"), parser.get_parsed_content("autoencoder_file"))


def _check_properties(tried: Tried, folder: Path, config: Path, kind: str, paths: Mapping[str, str]) -> list[Finding]:
    logging_file = folder / "configs" / "logging.conf"
    wrong: list[str] = []

    def check() -> None:
        workflow = ConfigWorkflow(
            config_file=str(config), workflow_type=kind, meta_file=str(folder / "configs" / "metadata.json"),
            logging_file=str(logging_file) if logging_file.is_file() else False,
            bundle_root=str(folder), device="cpu", **paths,
        )  # fmt: skip
        workflow.initialize()
        wrong.extend(workflow.check_properties() or [])

    id = f"properties.{kind}"
    found = tried(id, f"has no workflow of {config.name}", check)
    for name in wrong:
        text = f"{config.name} lacks the property {name}, or has it under another id than MONAI's."
        found.append(error(id, text, "See monai.bundle.properties for its id."))
    return found

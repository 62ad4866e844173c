"""``release`` and ``import-stylegan2``: what leaves, and a generator that comes in."""

from __future__ import annotations

import os
from typing import Any

from monai_plan.cli.arguments import NEEDED, PATH, Command

__all__ = ["COMMANDS"]


def _release(output_dir: str, kind: str, to: str, **options: Any) -> None:
    from monai_plan.bundle.gate import release_bundle

    digest = release_bundle(output_dir, kind=kind, to=to, **options)
    print(f"wrote {to}\n  digest of its manifest, to be published where you are believed: {digest}")


def _import_stylegan2(file: str, output: str) -> None:
    from monai_plan.networks import save_generator
    from monai_plan.networks.import_stylegan2 import load_stylegan2_pickle
    from monai_plan.utils import file_digest

    generator = load_stylegan2_pickle(file)
    save_generator(generator, output, made_by={"imported": os.path.basename(file), "sha256": file_digest(file)})
    print(f"wrote {output}")


COMMANDS: dict[str, Command] = {
    "release": Command(
        "let a finished run's data, a classifier or its generator out of the house, if its audit found nothing",
        _release,
        {
            "output_dir": ("folder of a finished run", PATH | {"metavar": "OUT"}),
            "--kind": (
                "data: images, data list, card, reports; classifier: a bundle with a network trained on the synthetic "
                "images alone; generator: a bundle with the generator",
                {"required": True, "choices": ("data", "classifier", "generator")},
            ),
            "--to": ("new folder; its name is the bundle's", NEEDED | {"metavar": "DIR"}),
            "--accept_generator_risk": (
                "needed for the generator: whoever has it can make what nobody has checked",
                {"action": "store_true"},
            ),
            "--authors": ("who releases it, for card and metadata (default: not named)", {}),
        },
    ),
    "import-stylegan2": Command(
        "make a generator's model.pt of an NVlabs StyleGAN2(-ADA) pickle, executing nothing in it",
        _import_stylegan2,
        {
            "file": ("the network, *.pkl, of StyleGAN2-ADA (PyTorch)", PATH | {"metavar": "FILE"}),
            "--output": ("the generator to write, such as DIR/model.pt", NEEDED),
        },
    ),
}

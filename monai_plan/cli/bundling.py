"""``bundles``, ``new-bundle`` and ``verify-bundle``."""

from __future__ import annotations

from typing import Any

from monai_plan.cli.arguments import INT, NEEDED, PATH, Command

__all__ = ["COMMANDS"]


def _bundles() -> None:
    from monai_plan.bundle.zoo import bundles
    from monai_plan.utils import read_json

    for name, folder in bundles().items():
        metadata = read_json(folder / "configs" / "metadata.json")
        weights = "with weights" if (folder / "models" / "model.pt").is_file() else "no weights"
        print(f"{name} {metadata['version']}, {weights}: {metadata['task']}\n  {folder}")


def _new_bundle(name: str, dataset_dir: str, **options: Any) -> int:
    from monai_plan.bundle.zoo import new_bundle

    folder = new_bundle(name, dataset_dir, **options)
    print(f"wrote {folder}\n  to run: monai-plan run {folder} --dataset_dir {dataset_dir} --output_dir OUT")
    return _verify_bundle(str(folder))


def _verify_bundle(bundle: str, dataset_dir: str | None = None, files_only: bool = False) -> int:
    from monai_plan.bundle.zoo import bundle_folder, verify_bundle

    folder = bundle_folder(bundle)

    def echo(line: str) -> None:
        print(f"{folder.name}: {line}", flush=True)

    found = verify_bundle(folder, dataset_dir=dataset_dir, files_only=files_only, echo=echo)
    for finding in found:
        print(f"  {finding}")
    errors = sum(finding.level == "error" for finding in found)
    verdict = f"{errors} errors" if errors else "nothing that the model zoo or the gate would refuse"
    print(f"{folder.name}: {verdict}, {len(found) - errors} warnings.")
    return 2 if errors else 0


COMMANDS: dict[str, Command] = {
    "bundles": Command("list the bundles that come with monai_plan, and where they lie", _bundles, {}),
    "new-bundle": Command(
        "write a complete bundle for your data, in the model zoo's form: classes and sizes are read from it",
        _new_bundle,
        {
            "name": ("of the bundle, such as knee_mri_plan", {"metavar": "NAME"}),
            "--dataset_dir": ("folder of the data set, with datalist.json in it", NEEDED | {"metavar": "DIR"}),
            "--output_dir": ("folder to write NAME to (default: here)", PATH | {"metavar": "DIR"}),
            "--img_size": (
                "elements of each axis (default: from the data, at most 64, in 3D 48)",
                INT | {"nargs": "+"},
            ),
            "--authors": ("who makes it, for its metadata (default: not named)", {}),
        },
    ),
    "verify-bundle": Command(
        "say what the model zoo's checks would of a bundle, off line, and whether a file of it derives from patients; "
        "this runs its configs, but for --files-only",
        _verify_bundle,
        {
            "bundle": ("its folder, or a name", PATH | {"metavar": "BUNDLE"}),
            "--dataset_dir": (
                "data for its train.json (default: a stand-in, for bundles of this form)",
                PATH | {"metavar": "DIR"},
            ),
            "--files_only": ("look at the files alone, and run nothing of it", {"action": "store_true"}),
        },
    ),
}

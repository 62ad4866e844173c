"""The lesions that phantoms show, real and released ones.

    python benchmarks/lesions.py QUICKSTART_DIR

prints, for the real and the released images of each class, the shares that show no, one, two or more lesions: every
real phantom of the class "lesion" has one. Above stands how the counter errs on phantoms that it has not learnt, some
of them with a second lesion pasted in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from monai_plan.data.lesions import LesionCounter, lesion_shares
from monai_plan.release import read_release

__all__ = ["lesion_table"]


def lesion_table(data_dir: Path, release_dir: Path) -> str:
    """The table, in Markdown, of the real phantoms and of a release made from them, in 2D."""
    real, released = read_release(data_dir), read_release(release_dir)
    counter = LesionCounter(released.img_size)
    rows = {f"not learnt, {name}": counts for name, (_, counts) in counter.held_out().items()}
    for kind, release in (("real", real), ("released", released)):
        counts, labels = counter(release.images), torch.tensor(release.labels)
        rows |= {f"{kind}, {name}": counts[labels == label] for label, name in sorted(release.label_names.items())}
    lines = [
        f"| {name} | " + " | ".join(f"{share:.1f}" for share in lesion_shares(found)) + " |"
        for name, found in rows.items()
    ]
    return "\n".join(["| % of the images | no lesion | one | two or more |", "|---|---:|---:|---:|", *lines])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("quickstart_dir", type=Path)
    folder = parser.parse_args().quickstart_dir
    print(lesion_table(folder / "data", folder / "release"))


if __name__ == "__main__":
    main()

"""``audit`` and ``evaluate``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_plan.cli.arguments import INT, NEEDED, PATH, Command

__all__ = ["COMMANDS"]


def _audit(release: str, real: str, fail_on: Sequence[str] = (), generator: str | None = None, **options: Any) -> int:
    from monai_plan.audit.command import audit_release, check_conditions, failures

    check_conditions(fail_on, generator=generator is not None)
    if generator is not None:
        from monai_plan.bundle.projector import FileProjector

        options["projector"] = FileProjector(generator, seed=options.get("seed", 0))
    result = audit_release(release, real, **options)
    print(f"{result.verdict}. {result.summary}")
    for row in result.rows:
        print(f"  {row.title}: {row.sentence}")
    held = failures(result, fail_on)
    for text in held:
        print(f"monai_plan: --fail-on: {text}", file=sys.stderr)
    return 3 if held else 0


def _evaluate(output_dir: str, protocol: str = "plan", **options: Any) -> None:
    import logging

    from monai_plan.bundle.protocol import evaluate_protocol
    from monai_plan.progress import hushed

    # to stderr: the tables alone are for a file
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("monai_plan").setLevel(logging.INFO)
    with hushed():
        tables = evaluate_protocol(output_dir, **options).to_markdown()
    print(tables, end="")
    print(f"\nWritten to {Path(output_dir) / 'private' / 'protocol'}, which derives from patients: never share it.")


COMMANDS: dict[str, Command] = {
    "audit": Command(
        "attack a synthetic data set that any tool made, and say what it gives away: audit.html and audit.json",
        _audit,
        {
            "--release": ("folder of images, with a data list or without", NEEDED | {"metavar": "DIR"}),
            "--real": (
                'data list of the real images, or its folder: "training" took part, "test" did not',
                NEEDED | {"metavar": "DATALIST"},
            ),
            "--private": (
                "private folder for the gallery of exposed patients and for finished parts (never share it)",
                PATH | {"metavar": "DIR"},
            ),
            "--output": ("folder of the page (default: that of the release)", PATH | {"metavar": "DIR"}),
            "--generator": (
                "the generator that made the release, model.pt: adds the attacker who has it, which is slower",
                PATH | {"metavar": "FILE"},
            ),
            "--skip_bad_images": ("leave out images that cannot be read, and say which", {"action": "store_true"}),
            "--weights": ("EfficientNet-lite0's file (default: installed)", PATH | {"metavar": "FILE"}),
            "--seed": ("seed of all that is drawn (default: 0)", INT),
            "--fail_on": (
                "exit with 3 if it holds: verdict (unless nothing was found), or a figure of audit.json such as "
                '"exclusion.p<0.05" (also where its row has no answer); may be given several times',
                {"action": "append", "metavar": "CONDITION"},
            ),
        },
    ),
    "evaluate": Command(
        "make the two tables of the paper from a finished run, beside the selection that walks have to beat",
        _evaluate,
        {
            "output_dir": ("of a finished run", PATH | {"metavar": "OUT"}),
            "--protocol": ("plan: the paper's (default)", {"choices": ("plan",)}),
            "--seeds": ("classifiers per row (default: 5)", INT),
            "--ks": ("k of the second table (default: 5 10 15)", INT | {"nargs": "+", "metavar": "K"}),
            "--rows": (
                "make these rows only, such as linear or 'PLAN, k = 5'",
                {"nargs": "+", "metavar": "ROW"},
            ),
        },
    ),
}

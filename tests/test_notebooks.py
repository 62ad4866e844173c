"""The notebooks, executed at toy size; and that none was saved with outputs, which would show images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import TINY

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_without_outputs(path: Path) -> None:
    cells = _read(path)["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    for cell in cells:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), str(path), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "your_data"])
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    """Every cell, in a kernel; progress is lines, nothing is redrawn."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    overrides = {name: value for name, value in TINY.items() if name != "device"}
    if name == "quickstart":
        first = f'DATA, OUTPUT = "d", "o"\nNUM_SUBJECTS, NUM_TEST_SUBJECTS = 12, 6\nOVERRIDES = {overrides!r}'
    else:
        _folders(tmp_path)
        first = f'IMAGES, OUTPUT = "my_images", "o"\nPATIENT = r"phantom_\\d+"\nOVERRIDES = {overrides!r}'
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code")
    parameters.source = first
    os.environ.setdefault("PYTHONPATH", str(EXAMPLES.parent))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    assert "[12/12] audit: done" in text
    assert "\r" not in text
    assert "%|" not in text
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("attack" in str(output.get("data", {}).get("text/markdown", "")) for output in outputs)
    assert "out it is" in text or "it stays in" in text
    assert not [output for output in outputs if output.output_type == "error"]


def _folders(root: Path) -> None:
    from monai_plan.data import make_phantoms

    datalist = make_phantoms(root / "made", img_size=16, num_subjects=16, num_test_subjects=2)
    for item in json.loads(datalist.read_text())["training"]:
        target = root / "my_images" / f"class_{item['label']}"
        target.mkdir(parents=True, exist_ok=True)
        os.rename(root / "made" / item["image"], target / Path(item["image"]).name)

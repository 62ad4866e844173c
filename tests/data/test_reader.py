"""The reader against files that are written here: every value, or the refusal, and the table in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from odd_files import ODD
from variants import COLOUR, RAS, VARIANTS, Variant, dicom, in_frame, nifti, picture, series, volume

from monai_plan.data import ImageRefusedError, LoadShownImaged, image_header, read_image
from monai_plan.data.reader import image_kind

ALL = [*VARIANTS, *ODD]
DOCS = Path(__file__).parents[2] / "docs" / "own_data.md"


@pytest.mark.parametrize("variant", ALL, ids=lambda variant: variant.id)
def test_the_value_that_a_viewer_shows_or_a_refusal(variant: Variant, tmp_path: Path) -> None:
    path = variant.write(tmp_path)
    values = variant.values if variant.at_best is None else variant.at_best
    refused = None
    try:
        image = read_image(path)
    except ImageRefusedError as error:
        refused = str(error)
    if refused is not None:
        assert variant.values is None
        assert re.search(variant.refusal, refused)
        return
    assert values is not None
    assert isinstance(image, MetaTensor)
    assert image.dtype == torch.float32
    assert tuple(image.shape) == values.shape
    assert np.abs(image.numpy() - values).max() <= variant.tolerance


@pytest.mark.parametrize("variant", [v for v in ALL if v.values is not None], ids=lambda variant: variant.id)
def test_the_header_says_what_is_read(variant: Variant, tmp_path: Path) -> None:
    path = variant.write(tmp_path)
    header = image_header(path)
    image = read_image(path)
    assert (header.channels, *header.size) == tuple(image.shape)
    if header.value_range is not None:
        assert header.value_range[0] <= float(image.min())
        assert float(image.max()) <= header.value_range[1]


def test_the_pictures_are_not_symmetric() -> None:
    """Else a turned or mirrored one would pass."""
    square = picture(rows=12, columns=12).astype(int)
    turns = [np.rot90(side, k) for k in range(4) for side in (square, square.T)]
    assert all(np.abs(turn - square).max() > 50 for turn in turns[1:])


def table() -> str:
    """By format: the variants that are read with the right values, and those that are refused."""
    lines = ["| format | read, with the value that a viewer shows | refused, by name |", "|---|---|---|"]
    for format in dict.fromkeys(variant.format for variant in ALL):
        names: tuple[list[str], list[str]] = ([], [])
        for variant in ALL:
            if variant.format == format:
                names[variant.values is None].append(variant.name)
        lines.append(f"| {format} | {'; '.join(names[0])} | {'; '.join(names[1])} |")
    return "\n".join(lines)


def test_the_table_in_the_docs_is_this_one() -> None:
    found = re.search(r"<!-- formats -->\n(.*?)\n<!-- formats end -->", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == table(), f"put this between the marks of {DOCS.name}:\n{table()}"


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL"])
def test_affines_of_volumes_are_of_ras(codes: str, tmp_path: Path) -> None:
    image = read_image(nifti(*in_frame(codes))(tmp_path))
    assert np.allclose(image.affine, RAS)


def test_affine_of_a_series(tmp_path: Path) -> None:
    """Rows run to the left, columns to the back: X and Y are turned over, and the corner moves to the other end."""
    image = read_image(series(tmp_path))
    x, y, _ = image.shape[1:]
    assert np.allclose(image.affine, [[2, 0, 0, -2 * (x - 1)], [0, 3, 0, -3 * (y - 1)], [0, 0, 4, 0], [0, 0, 0, 1]])


def test_spacing(tmp_path: Path) -> None:
    image = read_image(nifti(volume())(tmp_path), spacing=(4.0, 3.0, 2.0))
    assert np.allclose(image.affine.diagonal(), [4, 3, 2, 1])
    assert image.shape[2] == volume().shape[1]
    assert image.shape[1] < volume().shape[0]
    with pytest.raises(ImageRefusedError, match="3 axes, but spacing"):
        read_image(nifti(volume())(tmp_path), spacing=(1.0, 1.0))
    with pytest.raises(ImageRefusedError, match="no spacing in millimetres"):
        read_image(next(v for v in VARIANTS if v.format == "PNG").write(tmp_path), spacing=(1.0, 1.0))
    path = dicom(tmp_path / "spaced.dcm", COLOUR, "RGB", PixelSpacing=[0.5, 2.0])
    assert np.allclose(read_image(path).affine.diagonal(), [2.0, 0.5, 1, 1])


def test_an_itk_reader_or_an_environment_variable_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONAI_DICOM_READER", "pydicom")
    assert read_image(dicom(tmp_path / "a.dcm", picture())).shape == (1, 14, 10)


def test_pydicom_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dicom(tmp_path / "a.dcm", picture())
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ImageRefusedError, match="needs pydicom: pip install"):
        read_image(path)


def test_a_report_is_told_from_an_image(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", picture(), Modality="SR")
    import pydicom

    dataset = pydicom.dcmread(path)
    del dataset.Rows, dataset.Columns
    dataset.save_as(path)
    with pytest.raises(ImageRefusedError, match="is a SR object without an image"):
        read_image(path)


def test_a_big_tiff_is_known_by_its_mark(tmp_path: Path) -> None:
    for mark in (b"II+\0", b"MM\0+"):
        (tmp_path / "a").write_bytes(mark + bytes(20))
        assert image_kind(tmp_path / "a") == "raster"


def test_the_transform(tmp_path: Path) -> None:
    path = nifti(volume())(tmp_path)
    loaded = LoadShownImaged("image")({"image": str(path), "label": 1})
    assert loaded["label"] == 1
    assert torch.equal(loaded["image"].as_tensor(), torch.from_numpy(volume()[None]))
    assert LoadShownImaged("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError):
        LoadShownImaged("image")({"label": 1})
    assert "affine" in loaded["image"].meta
    assert not any(str(tmp_path) in str(value) for value in loaded["image"].meta.values())  # no patient's path


def test_a_spacing_is_in_millimetres_whatever_its_unit(tmp_path: Path) -> None:
    for unit, spacing in (("unknown", 0.5), ("mm", 0.5), ("micron", 500.0), ("meter", 0.0005)):
        image = nibabel.Nifti1Image(volume(), np.diag([spacing, spacing, 2 * spacing, 1.0]))
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / "a.nii")
        torch.testing.assert_close(read_image(tmp_path / "a.nii").pixdim.float(), torch.tensor([0.5, 0.5, 1.0]))


@pytest.mark.parametrize("spacing", [1e-5, 1e6, 1e30])
def test_a_voxel_of_no_size_that_there_is_is_refused(tmp_path: Path, spacing: float) -> None:
    nibabel.save(nibabel.Nifti1Image(volume(), np.diag([1.0, spacing, 1.0, 1.0])), tmp_path / "a.nii")
    with pytest.raises(ImageRefusedError, match=r"has voxels of 1 x .* x 1 mm by its header, but voxels have 0"):
        read_image(tmp_path / "a.nii")


def test_values_beyond_32_bits_are_not_called_infinite(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume().astype("float64") * 1e300, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageRefusedError, match=r"has values beyond 3\.4e38, the most that 32 bits hold"):
        read_image(tmp_path / "a.nii")


def test_a_slice_of_any_direction_is_flat(tmp_path: Path) -> None:
    for axis, shape in enumerate(((10, 6), (14, 6), (14, 10))):
        values = volume().take([2], axis)
        nibabel.save(nibabel.Nifti1Image(values, RAS), tmp_path / "a.nii")
        assert read_image(tmp_path / "a.nii").shape == (1, *shape)
        assert image_header(tmp_path / "a.nii").size == shape

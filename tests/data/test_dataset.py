from __future__ import annotations

import json
import logging
import os
import pickle

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, get_track_meta, set_track_meta
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, LoadImaged, RandFlipd, RandRotated, Resized, ScaleIntensityRanged
from PIL import Image

import monai_plan.data.loading
from monai_plan.data import CheckedDataset, IntensityScaling, LoadShownImaged, ScaleShownd
from monai_plan.data.loading import BadImageError, clear_cache, image_marks
from monai_plan.utils import ConfigError, DataError

# MONAI's own remarks on DICOM plug-ins and missing orientation.
pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:PydicomReader"),
]

SIZE = 8


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_dicom(path, image):
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientID = "CR", "p"
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = image.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_nifti(path, array):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0])), path)


def write_list(folder, items):
    path = folder / "datalist.json"
    path.write_text(json.dumps({"labels": {"0": "normal", "1": "lesion"}, "training": items}))
    return path


def transform(low=0.0, high=255.0):
    return Compose([LoadImaged("image", ensure_channel_first=True), ScaleIntensityRanged("image", low, high, -1, 1)])


def checked(path, **change):
    arguments = {"transform": transform(), "img_size": (SIZE, SIZE), "img_channels": 1, "num_classes": 2}
    return CheckedDataset(datalist_file=path, **{**arguments, **change})


@pytest.fixture
def good(tmp_path):
    """Two good grey PNG images of each class, of three patients."""
    items = []
    for number, subject in enumerate(["p2", "p10", "p2", "p3"]):
        Image.fromarray(pixels(number, SIZE, SIZE)).save(tmp_path / f"good{number}.png")
        items.append({"image": f"good{number}.png", "label": number // 2, "subject": subject})
    return items


FORMATS = {
    "png": (2, 1, lambda path, a: Image.fromarray(a).save(path)),
    "png rgb": (2, 3, lambda path, a: Image.fromarray(a).save(path)),
    "jpg": (2, 1, lambda path, a: Image.fromarray(a).save(path, quality=100)),
    "jpg rgb": (2, 3, lambda path, a: Image.fromarray(a).save(path, quality=100, subsampling=0)),
    "nii": (2, 1, write_nifti),
    "nii.gz": (3, 1, write_nifti),
    "dcm": (2, 1, write_dicom),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(tmp_path, kind):
    spatial_dims, channels, writer = FORMATS[kind]
    items, arrays = [], []
    for label in range(2):
        # Smooth, because JPEG is: the first axis differs from the second, to see the orientation.
        axes = np.meshgrid(*[np.arange(n) for n in (10, 14, 12)[:spatial_dims]], indexing="ij")
        array = sum((index + 3) * axis for index, axis in enumerate(axes)).astype(np.uint8) + np.uint8(40 * label)
        if channels == 3:
            array = np.stack([array, 255 - array, array // 2], -1)
        suffix = kind.split()[0]
        writer(tmp_path / f"{label}.{suffix}", array)
        items.append({"image": f"{label}.{suffix}", "label": label})
        if not suffix.startswith("nii"):
            array = array.swapaxes(0, 1)  # rows are y; MONAI's first spatial axis is x
        arrays.append(array.transpose(2, 0, 1) if channels == 3 else array[None])
    data = checked(write_list(tmp_path, items), img_size=arrays[0].shape[1:], img_channels=channels)
    difference = ((data.images[:] + 1) * 127.5 - torch.from_numpy(np.stack(arrays)).float()).abs().max()
    assert difference < (12 if "rgb" in kind and "jpg" in kind else 3 if "jpg" in kind else 1e-2)
    if kind == "nii.gz":
        assert np.allclose(data.patients_affines[0], np.diag([2.0, 3.0, 4.0, 1.0]))


def test_items_and_attributes(tmp_path, good):
    data = checked(write_list(tmp_path, good))
    assert len(data) == 4
    assert data.images.shape == (4, 1, SIZE, SIZE)
    assert data.images[:].dtype == torch.float32
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.subjects == ["p2", "p10", "p2", "p3"]
    assert data.keys == [item["image"] for item in good]
    assert data.identities.tolist() == [1, 0, 1, 2]  # sorted: p10, p2, p3
    assert data.num_subjects == 3
    assert data.has_subjects
    assert data.label_names == {0: "normal", 1: "lesion"}
    assert data.skipped == []
    item = data[2]
    assert set(item) == {"image", "label", "subject", "key", "identity"}
    assert type(item["image"]) is torch.Tensor
    assert (item["label"], item["subject"], item["key"], item["identity"]) == (1, "p2", "good2.png", 1)
    assert torch.equal(item["image"][0], torch.from_numpy(pixels(2, SIZE, SIZE)).float().T / 127.5 - 1)
    item["image"].zero_()
    assert data.images[2].any()  # what is done to an item does not reach the data set
    with pytest.raises(IndexError):
        data[4]


def test_no_item_holds_a_path_of_the_patient(tmp_path, good):
    data = checked(write_list(tmp_path, good))
    assert str(tmp_path).encode() not in pickle.dumps([data[index] for index in range(4)])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_transforms_and_loader_on_top(tmp_path, good, num_workers):
    data = checked(write_list(tmp_path, good))
    augmented = MonaiDataset(data=data, transform=Compose([RandFlipd("image", prob=1.0, spatial_axis=0)]))
    batch = next(iter(DataLoader(augmented, batch_size=4, num_workers=num_workers)))
    assert torch.equal(torch.as_tensor(batch["image"]), data.images[:].flip(2))
    assert batch["identity"].tolist() == data.identities.tolist()
    assert batch["key"] == data.keys


def truncate(path, writer, array):
    writer(path, array)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def save(path, array):
    Image.fromarray(array).save(path)


# name of the file, how it is made, its label, what is said about it
BAD = [
    ("gone.png", lambda path: None, 0, "does not exist"),
    ("cut.png", lambda path: truncate(path, save, pixels(1, 64, 64)), 0, "truncated"),
    ("cut.jpg", lambda path: truncate(path, save, pixels(1, 64, 64)), 0, "truncated"),
    ("cut.nii.gz", lambda path: truncate(path, write_nifti, pixels(1, SIZE, SIZE, 40)), 0, "ended before"),
    ("cut.nii", lambda path: truncate(path, write_nifti, pixels(1, SIZE, SIZE, 40)), 0, "Expected 2560 bytes"),
    ("empty.png", lambda path: path.write_bytes(b""), 0, "cannot identify"),
    ("text.png", lambda path: path.write_text("hello"), 0, "cannot identify"),
    ("text.nii", lambda path: path.write_text("hello"), 0, "Cannot work out file type"),
    ("rgb.png", lambda path: save(path, pixels(1, SIZE, SIZE, 3)), 0, "3 channels.*img_channels is 1"),
    ("large.png", lambda path: save(path, pixels(1, SIZE, SIZE + 1)), 0, r"\(1, 9, 8\).*\(1, 8, 8\)"),
    (
        "volume.nii",
        lambda path: write_nifti(path, pixels(1, SIZE, SIZE, 4)),
        0,
        r"a volume .* 8 x 8 x 4, but spatial_dims is 2",
    ),
    ("nan.nii", lambda path: write_nifti(path, np.full((SIZE, SIZE), np.nan, np.float32)), 0, "64 of 64.*NaN"),
    ("inf.nii", lambda path: write_nifti(path, np.eye(SIZE, dtype=np.float32) / 0.0), 0, "NaN or infinite"),
    ("bright.nii", lambda path: write_nifti(path, np.full((SIZE, SIZE), 510.0)), 0, r"from 3 to 3.*\[-1, 1\]"),
    ("high.png", lambda path: save(path, pixels(1, SIZE, SIZE)), 2, "label 2.*0 to 1"),
    ("low.png", lambda path: save(path, pixels(1, SIZE, SIZE)), -1, "label -1.*0 to 1"),
]


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("name", "make", "label", "message"), BAD, ids=[row[0] for row in BAD])
def test_bad_images(tmp_path, good, caplog, name, make, label, message):
    make(tmp_path / name)
    path = write_list(tmp_path, [good[0], {"image": name, "label": label, "subject": "bad"}, *good[1:]])
    with pytest.raises(DataError, match=message) as raised:
        checked(path)
    assert name in str(raised.value)
    assert "--skip-bad-images" in str(raised.value)
    assert "\n" not in str(raised.value)
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        data = checked(path, skip_bad_images=True)
    assert [key for key, _ in data.skipped] == [name]
    assert name in caplog.text
    assert torch.equal(data.images[:], checked(write_list(tmp_path, good)).images[:])
    assert "bad" not in data.subjects
    assert data.num_subjects == 3


def test_infinite_pixels_are_found_before_clipping_hides_them(tmp_path, good):
    array = np.zeros((SIZE, SIZE), np.float32)
    array[3, 3] = np.inf
    write_nifti(tmp_path / "inf.nii", array)
    path = write_list(tmp_path, [*good, {"image": "inf.nii", "label": 0, "subject": "bad"}])
    steps = [LoadImaged("image", ensure_channel_first=True), ScaleIntensityRanged("image", 0, 255, -1, 1, clip=True)]
    with pytest.raises(DataError, match="1 of 64"):
        checked(path, transform=Compose(steps))


def test_a_named_reader_fails_in_one_line_too(tmp_path, good):
    (tmp_path / "text.png").write_text("hello")
    path = write_list(tmp_path, [*good, {"image": "text.png", "label": 0, "subject": "bad"}])
    steps = [LoadImaged("image", reader="PILReader", ensure_channel_first=True), *transform().transforms[1:]]
    with pytest.raises(DataError, match="cannot identify image file") as raised:
        checked(path, transform=Compose(steps))
    assert "\n" not in str(raised.value)


def test_the_number_of_further_bad_images_is_told(tmp_path, good):
    gone = [{"image": f"gone{n}.png", "label": 0, "subject": "bad"} for n in range(3)]
    with pytest.raises(DataError, match=r"gone0\.png.*3 of 7 images are missing"):
        checked(write_list(tmp_path, good + gone))


def test_where_all_images_are_bad_the_configuration_is_suspected(tmp_path, good):
    with pytest.raises(DataError, match=r"good0\.png.*all 4 images are bad, so mend the transform"):
        checked(write_list(tmp_path, good), img_size=(SIZE, SIZE + 1))


def test_empty_class_and_section(tmp_path, good):
    path = write_list(tmp_path, good)
    with pytest.raises(DataError, match="no image of class 2"):
        checked(path, num_classes=3)
    with pytest.raises(DataError, match=r'"test".*\[\'training\'\]'):
        checked(path, section="test")
    with pytest.raises(DataError, match='"training"'):
        checked(write_list(tmp_path, []))
    gone = [{"image": f"gone{n}.png", "label": 1, "subject": "bad"} for n in range(3)]
    with pytest.raises(DataError, match=r"class 1 \(lesion\)"):
        checked(write_list(tmp_path, good[:2] + gone), skip_bad_images=True)


def test_transforms_that_cannot_be_applied_once(tmp_path, good):
    path = write_list(tmp_path, good)
    steps = [LoadImaged("image", ensure_channel_first=True), RandRotated("image", range_x=0.1)]
    with pytest.raises(ConfigError, match="RandRotated is random"):
        checked(path, transform=Compose(steps))
    with pytest.raises(ConfigError, match="positive"):
        checked(path, num_classes=0)


def test_grey_stored_as_rgb_is_grey_and_colour_is_not(tmp_path, good):
    grey = pixels(7, SIZE, SIZE)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.png")
    path = write_list(tmp_path, [*good, {"image": "rgb.png", "label": 0, "subject": "p4"}])
    data = checked(path, transform=shown())
    assert torch.equal(data.images[4, 0], torch.from_numpy(grey).float().T / 127.5 - 1)
    assert torch.equal(checked(path, transform=shown(), img_channels=3).images[0, 2], data.images[0, 0])
    Image.fromarray(np.stack([grey, grey, grey // 2], -1)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match=r"3 channels after the transform \(it has colours\), but img_channels is 1"):
        checked(path, transform=shown())


def test_an_image_is_not_stretched_to_a_volume(tmp_path, good):
    """As Resized does it without a word."""
    steps = [LoadShownImaged("image"), Resized("image", (SIZE, SIZE, 4))]
    with pytest.raises(DataError, match=r"is a single image or slice of 8 x 8, but spatial_dims is 3.*all 4 images"):
        checked(write_list(tmp_path, good), transform=Compose(steps), img_size=(SIZE, SIZE, 4))


def test_most_images_of_the_wrong_kind_blame_the_configuration(tmp_path, good):
    for number in range(3):
        Image.fromarray(pixels(number, SIZE, SIZE, 3)).save(tmp_path / f"good{number}.png")
    path = write_list(tmp_path, good)
    with pytest.raises(
        DataError, match=r"3 of 4 images are bad, so mend img_channels rather than the images"
    ) as raised:
        checked(path)
    assert "--skip-bad-images" not in str(raised.value)


def test_a_spacing_of_too_few_axes_is_to_blame_and_not_the_images(tmp_path):
    for label in (0, 1):
        write_nifti(tmp_path / f"{label}.nii", pixels(label, 10, 12, 14))
    path = write_list(tmp_path, [{"image": f"{label}.nii", "label": label} for label in (0, 1)])
    steps = Compose([LoadShownImaged("image", spacing=(3, 3)), Resized("image", (SIZE,) * 3)])
    with pytest.raises(DataError, match=r"spacing \[3, 3\] has 2 values: all 2 images are bad, so mend spacing rather"):
        checked(path, transform=steps, img_size=(SIZE,) * 3)


def shown():
    return Compose([LoadShownImaged("image"), ScaleShownd("image", IntensityScaling("range", (0.0, 255.0)))])


def test_what_was_read_is_kept(tmp_path, good, monkeypatch):
    path = write_list(tmp_path, [*good, {"image": "gone.png", "label": 0, "subject": "bad"}])
    options = {"cache_dir": tmp_path / "cache", "skip_bad_images": True}
    first = checked(path, transform=shown(), **options)
    with monkeypatch.context() as patch:
        patch.setattr("monai_plan.data.loading._load", None)  # nothing is read
        again = checked(path, transform=shown(), **options)
    assert torch.equal(again.images[:], first.images[:])
    assert torch.equal(again.affines, first.affines)
    assert (again.digests, again.skipped, again.keys) == (first.digests, first.skipped, first.keys)
    assert again.intensity == IntensityScaling("range", (0.0, 255.0))
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["training.pt"]


@pytest.mark.parametrize("change", ["file", "transform", "list", "damage"])
def test_what_was_kept_is_not_used_when_anything_changed(tmp_path, good, change):
    path, scaling = write_list(tmp_path, good), IntensityScaling("range", (0.0, 255.0))
    options = {"cache_dir": tmp_path / "cache"}
    first = checked(path, transform=shown(), **options)
    if change == "file":
        Image.fromarray(pixels(99, SIZE, SIZE)).save(tmp_path / "good0.png")
    elif change == "transform":
        scaling = IntensityScaling("range", (0.0, 300.0))
    elif change == "list":
        path = write_list(tmp_path, good[::-1])
    else:
        (tmp_path / "cache" / "training.pt").write_bytes(b"damaged")
    steps = Compose([LoadShownImaged("image"), ScaleShownd("image", scaling)])
    again = checked(path, transform=steps, **options)
    assert torch.equal(again.images[:], checked(path, transform=steps).images[:])
    assert torch.equal(again.images[:], first.images[:]) == (change == "damage")


def test_a_file_of_the_same_size_and_date_is_read_again(tmp_path, good):
    Image.fromarray(pixels(1, SIZE, SIZE)).save(tmp_path / "same.bmp")
    path = write_list(tmp_path, [*good, {"image": "same.bmp", "label": 0, "subject": "same"}])
    options = {"cache_dir": tmp_path / "cache", "transform": shown()}
    first = checked(path, **options)
    stat = (tmp_path / "same.bmp").stat()
    Image.fromarray(pixels(2, SIZE, SIZE)).save(tmp_path / "same.bmp")
    os.utime(tmp_path / "same.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as cp -p, rsync and archives do
    now = (tmp_path / "same.bmp").stat()
    assert (now.st_size, now.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert not torch.equal(checked(path, **options).images[-1], first.images[-1])


@pytest.mark.parametrize("listed", ["a.hdr", "a.img"])
def test_both_files_of_a_volume_are_watched(tmp_path, listed):
    items = [{"image": str(tmp_path / listed), "label": 0, "key": listed}]
    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.img")
    marks = [image_marks(items)]
    for part in ("a.hdr", "a.img"):
        content = (tmp_path / part).read_bytes()
        (tmp_path / part).write_bytes(content[:-1] + b"\1")
        marks.append(image_marks(items))
    assert len({repr(mark) for mark in marks}) == 3


def test_what_may_be_mended_elsewhere_is_read_again(tmp_path, good, monkeypatch):
    """A right, a full memory or a missing package leaves no trace on the file itself."""
    path, options = write_list(tmp_path, good), {"cache_dir": tmp_path / "cache", "transform": shown()}
    load = monai_plan.data.loading._load

    def fails(item, *args, **kwargs):
        if item["key"] == "good0.png":
            raise BadImageError("cannot be decoded")
        return load(item, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("monai_plan.data.loading._load", fails)
        with pytest.raises(DataError, match="cannot be decoded"):
            checked(path, **options)
    assert not checked(path, **options).skipped
    (tmp_path / "cache" / "training.pt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("monai_plan.data.loading._load", fails)
        assert len(checked(path, skip_bad_images=True, **options).skipped) == 1
    assert len(checked(path, skip_bad_images=True, **options).skipped) == 1
    with monkeypatch.context() as patch:
        patch.setattr("monai_plan.data.loading._version", lambda package: "9")  # of a package that was installed since
        assert not checked(path, skip_bad_images=True, **options).skipped


def held_in(folder):
    """The pixels of the files of a cache, by file: bytes to search for a picture, as it is held."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("way", ["list", "file", "section", "no list", "damaged list"])
def test_who_was_removed_is_gone_from_the_cache_before_anything_is_read(tmp_path, good, way, monkeypatch):
    removed = pixels(50, SIZE, SIZE)
    Image.fromarray(removed).save(tmp_path / "removed.png")
    Image.fromarray(pixels(51, SIZE, SIZE)).save(tmp_path / "other.png")
    item, other = ({"image": f"{name}.png", "label": 1, "subject": name} for name in ("removed", "other"))
    sections = {"training": good, "test": [item, other | {"label": 0}]}
    path = write_list(tmp_path, [])
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | sections))
    options = {"cache_dir": tmp_path / "cache", "transform": shown()}
    for section in sections:
        checked(path, section=section, **options)
    look = removed.T.tobytes()
    assert {name for name, held in held_in(tmp_path / "cache").items() if look in held} == {"test.pt"}
    clear_cache(tmp_path / "cache", [path])
    assert len(held_in(tmp_path / "cache")) == 2  # nobody was removed
    if way == "list":
        path.write_text(json.dumps(content | {"training": good, "test": [other | {"label": 0}]}))
    elif way == "file":
        (tmp_path / "removed.png").unlink()
    elif way == "section":
        path.write_text(json.dumps(content | {"training": good}))
    elif way == "no list":
        path.unlink()
    else:
        path.write_text("{")
    if way in ("no list", "damaged list"):
        with pytest.raises(DataError):
            checked(path, **options)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("monai_plan.data.loading._load", None)  # what belongs is kept
            checked(path, **options)  # of another section
    assert not any(look in held for held in held_in(tmp_path / "cache").values())


def test_a_transform_that_cannot_be_pickled_is_not_kept(tmp_path, good):
    steps = Compose([LoadShownImaged("image"), lambda data: {"image": data["image"] / 255.0}])
    checked(write_list(tmp_path, good), transform=steps, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_images_read_side_by_side_keep_their_places(tmp_path):
    items = []
    for number in range(64):
        Image.fromarray(pixels(number, SIZE, SIZE)).save(tmp_path / f"{number}.png")
        items.append({"image": f"{number}.png", "label": number % 2, "subject": f"p{number}"})
    (tmp_path / "7.png").unlink()
    data = checked(write_list(tmp_path, items), transform=shown(), skip_bad_images=True)
    for image, key in zip(data.images, data.keys, strict=True):
        expected = torch.from_numpy(pixels(int(key.removesuffix(".png")), SIZE, SIZE)).float().T / 127.5 - 1
        assert torch.equal(image[0], expected)
    assert len(data) == 63


def test_resized_and_constant_images_are_fine(tmp_path, good):
    Image.new("L", (20, 30), 7).save(tmp_path / "flat.png")
    path = write_list(tmp_path, [*good, {"image": "flat.png", "label": 0, "subject": "p4"}])
    steps = [*transform().transforms[:1], Resized("image", (SIZE, SIZE)), *transform().transforms[1:]]
    data = checked(path, transform=Compose(steps), progress=True)
    assert torch.allclose(data.images[4], torch.tensor(7 / 127.5 - 1), atol=1e-4)


@pytest.mark.parametrize(
    "loader", [LoadShownImaged("image", spacing=(3, 3, 3)), LoadImaged("image", ensure_channel_first=True)]
)
def test_monais_switch_to_plain_tensors_changes_nothing(tmp_path, loader):
    for label in (0, 1):
        write_nifti(tmp_path / f"{label}.nii", pixels(label, 10, 12, 14))
    path = write_list(tmp_path, [{"image": f"{label}.nii", "label": label} for label in (0, 1)])
    steps = Compose([loader, Resized("image", (SIZE,) * 3), ScaleIntensityRanged("image", 0, 255, -1, 1, clip=True)])
    first = checked(path, transform=steps, img_size=(SIZE,) * 3)
    set_track_meta(False)
    try:
        second = checked(path, transform=steps, img_size=(SIZE,) * 3)
        assert not get_track_meta()
    finally:
        set_track_meta(True)
    assert torch.equal(first.images[:], second.images[:])
    assert torch.equal(first.affines, second.affines)
    assert torch.equal(first.shown_affines, second.shown_affines)
    assert first.digests == second.digests
    assert not np.allclose(first.shown_affines[0], np.eye(4))

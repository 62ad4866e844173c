"""Samples made on line: at the inner points of the paths, the same in every process, and never on CUDA in a fork."""

from __future__ import annotations

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, ThreadDataLoader
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, ScaleIntensityd

from monai_plan.networks import StyleGAN2Generator, save_generator
from monai_plan.release import SyntheticBank
from monai_plan.transforms import OnlineSource, SubstituteSyntheticd
from monai_plan.utils import ArtifactError, ConfigError, save_artifact

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SIZES = pytest.mark.parametrize("img_size", [(8, 16), (8, 8, 16)])
AFFINE = [[-2.0, 0.0, 0.0, 5.0], [0.0, 3.0, 0.0, 6.0], [0.0, 0.0, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]]


def make_files(folder, img_size=(8, 16), *, seed=0, w_dim=4):
    """A generator and three paths of five points: two of class 0, one of class 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = StyleGAN2Generator(
            spatial_dims=len(img_size),
            img_size=img_size,
            img_channels=1,
            z_dim=4,
            w_dim=4,
            num_classes=2,
            channel_base=32,
            channel_max=4,
        ).eval()
        paths = 3 * torch.randn(3, 5, w_dim)
    save_generator(generator, folder / "model.pt")
    data = {"paths": paths, "labels": torch.tensor([0, 1, 0]), "kept": torch.ones(3, 5, dtype=torch.bool)}
    data |= {"anchor_kind": "k_same", "min_end_distance": 0.0, "secret": "00" * 32}
    save_artifact(folder / "paths.pt", kind="paths", data=data)
    return generator, paths


@pytest.fixture
def source(tmp_path):
    make_files(tmp_path)
    return OnlineSource(tmp_path / "model.pt", tmp_path / "paths.pt")


ITEMS = [{"image": f"{n}.png", "label": n % 2} for n in range(6)]


def images_of(loader):
    return torch.cat([batch["image"] for batch in loader]).as_subclass(torch.Tensor)


class Errors(torch.utils.data.Dataset):
    """What is raised for every item of a data set, as text, in the process that asks for it."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        with pytest.raises(RuntimeError) as error:
            self.dataset[index]
        return str(error.value.__cause__)


@SIZES
def test_samples_are_the_images_of_the_inner_points(tmp_path, img_size):
    generator, paths = make_files(tmp_path, img_size)
    source = OnlineSource(tmp_path / "model.pt", tmp_path / "paths.pt", affine=AFFINE)
    assert source.labels == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert (source.img_size, source.img_channels, source.affine.tolist()) == (img_size, 1, AFFINE)
    with torch.no_grad():
        expected = generator.synthesis(paths[:, 1:4].flatten(0, 1)).clamp(-1, 1)
    for copy in (source, pickle.loads(pickle.dumps(source)), deepcopy(source)):
        images = torch.stack([copy.image(number) for number in range(9)])
        torch.testing.assert_close(images, expected)
    assert images.unique().numel() > 256  # not rounded to 8 bits
    assert len({source.name(number) for number in range(9)}) == 9


def test_a_release_holds_the_samples_of_its_own_generator_and_paths(finished):
    """But for the rounding to 8 bits, and for the points that no image was asked of."""
    source = OnlineSource(finished / "private/model.pt", finished / "private/paths.pt")
    bank = SyntheticBank(finished / "release", cache=True)
    made = torch.stack([((source.image(n) + 1) * 127.5).round() for n in range(len(source.labels))])
    for number, label in enumerate(bank.labels):
        same = (made - bank.image(number).float()).abs().flatten(1).amax(1) <= 1
        assert label in [source.labels[n] for n in same.nonzero().flatten().tolist()]


def test_the_transform_draws_from_it_like_from_a_bank(source):
    substitute = SubstituteSyntheticd("image", source=source, output="image", data=ITEMS, value_range=(0, 1))
    results = [substitute(item) for item in ITEMS]
    names = [result["image"].meta["filename_or_obj"] for result in results]
    assert len(set(names)) == 6
    for name, result, item in zip(names, results, ITEMS, strict=True):
        number = int(name.removeprefix("synthetic_"))
        assert source.labels[number] == result["label"] == item["label"]
        torch.testing.assert_close(result["image"].as_tensor(), (source.image(number) + 1) / 2)
        assert result["image"].meta["synthetic"] is True
    unscaled = SubstituteSyntheticd("image", source=source, output="image", data=ITEMS)(ITEMS[0])["image"]
    assert unscaled.min() < 0
    unscaled.add_(1)  # an image for a pipeline like any other


def test_classes_have_names_where_they_are_given(tmp_path, source):
    named = OnlineSource(source.generator_file, tmp_path / "paths.pt", label_names={0: "normal", 1: "lesion"})
    result = SubstituteSyntheticd("image", source=named, output="image")({"image": "a.png", "label": "lesion"})
    assert result["label"] == "lesion"
    with pytest.raises(ConfigError, match=r"no class 'lesion'.*\[0, 1\]"):
        SubstituteSyntheticd("image", source=source, output="image", classes=["lesion"])


@pytest.mark.parametrize("output", ["like", "path"])
def test_there_are_no_paths_to_give(source, output):
    with pytest.raises(ConfigError, match=r"OnlineSource has no files.*output='image'"):
        SubstituteSyntheticd("image", source=source, output=output)


def test_the_pickle_is_small_and_knows_the_files(tmp_path, source):
    source.image(0)
    assert len(pickle.dumps(source)) < 5000  # no network
    again = OnlineSource(tmp_path / "model.pt", tmp_path / "paths.pt")
    assert pickle_hashing([source]) == pickle_hashing([again])
    make_files(tmp_path, seed=1)
    assert OnlineSource(tmp_path / "model.pt", tmp_path / "paths.pt").digest != source.digest


def test_many_threads_and_forked_workers_get_the_same_samples(source):
    transform = Compose(
        [SubstituteSyntheticd("image", source=source, output="image", data=ITEMS), ScaleIntensityd("image")]
    )
    expected = images_of(DataLoader(Dataset(ITEMS, transform), batch_size=2))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(transform, ITEMS * 5))
    assert torch.equal(torch.stack([r["image"].as_tensor() for r in results[-6:]]), expected)
    for loader in (
        DataLoader(CacheDataset(ITEMS, transform, num_workers=4, progress=False), batch_size=2),
        DataLoader(Dataset(ITEMS, transform), batch_size=2, num_workers=2, multiprocessing_context="fork"),
        ThreadDataLoader(Dataset(ITEMS, transform), batch_size=2, num_workers=0),
        ThreadDataLoader(Dataset(ITEMS, transform), batch_size=2, num_workers=2, use_thread_workers=True),
    ):
        torch.testing.assert_close(images_of(loader), expected)


def test_cuda_in_a_forked_worker_is_an_error_that_says_what_to_use(tmp_path, monkeypatch):
    """What refuses comes before the first use of the device, and needs none."""
    make_files(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    source = OnlineSource(tmp_path / "model.pt", tmp_path / "paths.pt", device="cuda")
    monkeypatch.undo()
    if not torch.cuda.is_available():  # in this process it is not refused, and fails for want of a GPU alone
        with pytest.raises((RuntimeError, AssertionError), match=r"NVIDIA|CUDA"):
            source.image(0)
    dataset = Dataset(ITEMS, SubstituteSyntheticd("image", source=source, output="image"))
    for (text,) in DataLoader(Errors(dataset), num_workers=1, multiprocessing_context="fork"):
        assert re.search(r"forked process.*num_workers=0.*ThreadDataLoader", text)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_the_images_are_given_on_the_cpu(tmp_path):
    make_files(tmp_path)
    cpu, gpu = (OnlineSource(tmp_path / "model.pt", tmp_path / "paths.pt", device=device) for device in ("cpu", "cuda"))
    assert gpu.image(3).device.type == "cpu"
    torch.testing.assert_close(gpu.image(3), cpu.image(3), rtol=0, atol=1e-3)
    loader = ThreadDataLoader(Dataset(ITEMS, SubstituteSyntheticd("image", source=gpu, output="image")), num_workers=0)
    assert images_of(loader).shape == (6, 1, 8, 16)


def test_what_cannot_work_is_an_error_at_construction(tmp_path, source):
    model, paths = source.generator_file, tmp_path / "paths.pt"
    with pytest.raises(ConfigError, match=r"\[3, 3\].*4 x 4"):
        OnlineSource(model, paths, affine=torch.eye(3).tolist())
    with pytest.raises(ArtifactError, match="holds generator, but paths"):
        OnlineSource(model, model)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no GPU"):
            OnlineSource(model, paths, device="cuda")
    make_files(tmp_path, w_dim=5)
    with pytest.raises(ArtifactError, match=r"points of 5 numbers.*has 4"):
        OnlineSource(model, paths)

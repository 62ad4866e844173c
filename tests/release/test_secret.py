"""The secret: kept in its file, not to be guessed from what it draws."""

from __future__ import annotations

import pytest
import torch

from monai_plan.release import release_secret, select
from monai_plan.release.secret import draw, in_secret_order

SECRETS = [f"{number:064x}" for number in range(400)]


def test_it_is_drawn_once_and_kept(tmp_path):
    file = tmp_path / "work" / "secret.json"
    secret = release_secret(file)
    assert len(bytes.fromhex(secret)) == 32
    assert release_secret(file) == secret
    file.unlink()
    assert release_secret(file) != secret


DAMAGED = ["", "{}", '{"secret": 5}', '{"secret": "00"}', f'{{"secret": "{"zz" * 32}"}}', "[]", "[" * 5000, "\x00"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_one_is_drawn_anew_and_a_line_says_so(tmp_path, caplog, text):
    file = tmp_path / "secret.json"
    file.write_text(text)
    with caplog.at_level("WARNING"):
        secret = release_secret(file)
    assert f"{file} is damaged: another secret is drawn" in caplog.text
    assert len(bytes.fromhex(secret)) == 32
    assert release_secret(file) == secret


def test_draws_are_even_and_depend_on_secret_and_key():
    draws = torch.tensor([[draw(secret, "a", n) for n in range(50)] for secret in SECRETS], dtype=torch.float64)
    assert 0 <= draws.min() < 0.001 < 0.999 < draws.max() < 1
    assert abs(float(draws.mean()) - 0.5) < 0.01
    assert len(draws.unique()) == draws.numel()
    assert draw(SECRETS[0], "a", 1) != draw(SECRETS[0], "b", 1) != draw(SECRETS[0], "b", "1")


def correlation(x, y):
    return float(torch.corrcoef(torch.stack([torch.as_tensor(x).double(), torch.as_tensor(y).double()]))[0, 1])


def test_neither_order_nor_numbers_tell_of_paths():
    """Over many secrets: places of images and numbers of walks against those of points and paths, and their counts."""
    labels, (paths, points) = torch.tensor([0] * 6 + [1] * 4), (10, 8)
    place = torch.stack(torch.meshgrid(torch.arange(paths), torch.arange(points), indexing="ij"), dim=2)
    data = {"paths": place.float(), "labels": labels, "kept": torch.ones(paths, points, dtype=torch.bool)}
    data |= {"anchor_kind": "k_same", "min_end_distance": 0.0}
    found = {"path": [], "point": [], "walk": [], "more": []}
    for secret in SECRETS:
        chosen = select({**data, "secret": secret}, num_images={0: 20, 1: 15}).places
        path, point = chosen.unbind(1)
        found["path"].append(correlation(range(35), path))
        found["point"].append(correlation(range(35), point))
        walks = list(dict.fromkeys(path.tolist()))  # as the writer numbers them
        found["walk"].append(correlation(range(len(walks)), walks))
        found["more"].append(correlation(range(6), torch.bincount(path)[:6]))  # two of six paths give one image more
    for name, values in found.items():
        values = torch.tensor(values)
        assert abs(float(values.mean())) < 4 * float(values.std()) / len(values) ** 0.5, name
    assert sorted(in_secret_order(9, SECRETS[3], "x")) == list(range(9))

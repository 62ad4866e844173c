"""Train a classifier on a Decathlon data list: a MONAI script as many have one.

    python train_classifier.py DATALIST

``train_classifier_on_synthetic.py`` beside it is the same script with one transform added.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from ignite.metrics import Accuracy
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import StatsHandler, ValidationHandler, from_engine
from monai.inferers import SimpleInferer
from monai.networks.nets import DenseNet
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandRotated, Resized, ScaleIntensityd
from monai.utils import set_determinism


def items(datalist: str, section: str) -> list[dict]:
    """The items of a section, with absolute paths."""
    folder = Path(datalist).absolute().parent
    with open(datalist, encoding="utf-8") as file:
        return [{**item, "image": str(folder / item["image"])} for item in json.load(file)[section]]


def main() -> None:
    """Train, and print the accuracy on the real test section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datalist")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--img_size", type=int, default=32)
    options = parser.parse_args()
    set_determinism(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    load = [
        LoadImaged(keys="image"),
        EnsureChannelFirstd(keys="image"),
        ScaleIntensityd(keys="image"),
        Resized(keys="image", spatial_size=[options.img_size] * 2),
    ]
    train_transform = Compose([
        *load,
        RandRotated(keys="image", range_x=0.1, prob=0.5),
    ])  # fmt: skip
    train = CacheDataset(items(options.datalist, "training"), train_transform, progress=False)
    test = CacheDataset(items(options.datalist, "test"), Compose(load), progress=False)

    network = DenseNet(2, 1, 2, init_features=16, growth_rate=8, block_config=(2, 2, 2)).to(device)
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(test, batch_size=32),
        network=network,
        inferer=SimpleInferer(),
        key_val_metric={
            "accuracy": Accuracy(output_transform=lambda out: _stacked(from_engine(["pred", "label"])(out)))
        },
        val_handlers=[StatsHandler(iteration_log=False)],
    )
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=options.epochs,
        train_data_loader=DataLoader(train, batch_size=16, shuffle=True),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3),
        loss_function=torch.nn.CrossEntropyLoss(),
        inferer=SimpleInferer(),
        train_handlers=[ValidationHandler(interval=options.epochs, validator=evaluator)],
    )
    trainer.run()
    print(f"accuracy on {len(test)} real test images: {evaluator.state.metrics['accuracy']:.3f}")


def _stacked(pairs: tuple[list, list]) -> tuple[torch.Tensor, torch.Tensor]:
    """MONAI decollates batches into lists; Ignite's metric wants tensors."""
    predictions, labels = pairs
    return torch.stack(predictions), torch.stack([torch.as_tensor(label) for label in labels])


if __name__ == "__main__":
    main()

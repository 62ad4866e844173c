"""Samples made when they are asked for, by a generator at points of the walks: no release needed, but a device."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_plan.networks import LatentDecoder, load_generator
from monai_plan.release import load_paths, select
from monai_plan.utils import ArtifactError, ConfigError, digest


class OnlineSource:
    """x̄ = clamp(G(w̄_t), −1, 1) at all points of the paths that may leave, one sample per point, made at every call.

    For a walk that has more points than a release should hold, or a look at its images before one is written. It
    reads private files and stays on the private side; a ``SyntheticBank`` is faster and needs no device. Points that
    the final check of the walk refused are never given (``monai_plan.release.select``). Unlike a release, values are
    not rounded to 8 bits.

    The network is loaded onto the device at the first sample, in every process anew, and never pickled. On the CPU, a
    worker that was forked while another thread of its parent ended can hang (MKL's allocator keeps a lock; once in some
    500 forks here): set ``MKL_DISABLE_FAST_MM=1`` before the first import, or use num_workers=0 or
    ``multiprocessing_context="spawn"``.

    Args:
        generator_file: the generator that the paths were walked with, for instance ``private/model.pt``.
        paths_file: the paths, ``private/paths.pt``, written by the stage ``walk``.
        device: where to compute; the image is moved to the CPU.
        affine: 4 x 4, voxel to RAS+ millimetres, of the samples; the identity if left out.
        label_names: the name of every class, as the data list of the real images has them; without names, labels are
            the numbers of the classes.

    Attributes:
        labels, label_names: the class of every sample, and the name of every class.
        img_size, img_channels: elements of each spatial axis, and channels.
        affine: [4, 4], float64.
        intensity_range: (−1, 1).
        digest: changes with the two files.

    Raises:
        ArtifactError: if a file is missing, damaged or of another kind, or the paths are in another latent space.
        ConfigError: if ``device`` is CUDA and there is none, or ``affine`` is not 4 x 4.
    """

    intensity_range = (-1.0, 1.0)

    def __init__(
        self,
        generator_file: str | os.PathLike[str],
        paths_file: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        affine: Sequence[Sequence[float]] | np.ndarray | None = None,
        label_names: dict[int, str] | None = None,
    ) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device is {self.device}, but PyTorch sees no GPU here: use device='cpu'.")
        self.affine = np.eye(4) if affine is None else np.array(affine, dtype=float)
        if self.affine.shape != (4, 4):
            raise ConfigError(f"affine has the shape {list(self.affine.shape)}, but must be 4 x 4.")
        self.generator_file = os.path.abspath(generator_file)
        network = load_generator(generator_file)
        points = select(load_paths(paths_file))
        if points.latents.shape[-1] != network.w_dim:
            raise ArtifactError(
                f"{paths_file} holds points of {points.latents.shape[-1]} numbers, but w of {generator_file} has "
                f"{network.w_dim}: give the paths that were walked with this generator."
            )
        if not len(points.labels):
            raise ArtifactError(f"{paths_file} has no point that may leave: walk again, see min_distance_quantile.")
        self._latents = points.latents.numpy()  # not a tensor: see SyntheticSource
        self.labels: list[int] = points.labels.tolist()
        self.label_names = dict(label_names or {})
        self.img_size: tuple[int, ...] = network.img_size
        self.img_channels = network.img_channels
        self.digest = digest(Path(generator_file), Path(paths_file))
        self._start()

    def _start(self) -> None:
        """What belongs to one process; the network comes with the first sample."""
        self._network: LatentDecoder | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    def name(self, index: int) -> str:
        """``synthetic_000000`` and so on."""
        return f"synthetic_{index:06d}"

    def image(self, index: int) -> Tensor:
        """Make a sample: float32 [C, *spatial] in [−1, 1], on the CPU.

        Raises:
            ConfigError: if the device is CUDA and this process was forked, as DataLoader workers are by default.
        """
        if self.device.type == "cuda" and os.getpid() != self._process:
            raise ConfigError(
                "OnlineSource cannot use CUDA in a forked process, such as a worker of a DataLoader: use "
                "num_workers=0, monai.data.ThreadDataLoader, multiprocessing_context='spawn', or a SyntheticBank."
            )
        # The lock: CacheDataset fills its cache from several threads. Not inference_mode, whose tensors a later
        # transform could not change in place.
        with self._lock, torch.no_grad():
            if self._network is None:
                self._network = load_generator(self.generator_file).to(self.device)
            image = self._network.synthesis(torch.tensor(self._latents[[index]], device=self.device))[0]
            return image.float().clamp(-1, 1).cpu()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_network", "_lock", "_process"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

"""How much memory each stage needs, about: the images that it holds, and what its networks keep of a batch."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_plan.audit.attacks.maps import small
from monai_plan.audit.attacks.registration import CHUNK
from monai_plan.data import CheckedDataset
from monai_plan.gan import BeforeDecoderInferer
from monai_plan.latent import LatentInverter, LatentWalk
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.metrics.nearest import MEMORY
from monai_plan.networks import ImageAutoencoder, LatentDecoder, images_at_once
from monai_plan.utils import ConfigError

__all__ = ["Need", "check_memory", "stage_needs"]

GIB = 1024**3
EMBEDDED_AT_ONCE = 64
MAPS_OF_A_FIT = 30  # that are kept of a pair for the gradient of its motion
ITSELF = 600 * 1024**2  # of Python, PyTorch, MONAI and the libraries of a stage; 500 were measured


@dataclass(frozen=True)
class Need:
    """The memory that a stage needs.

    Attributes:
        stage: its name.
        images: bytes of the images that it holds, in the machine's memory.
        networks: bytes of the networks and of what is made of a batch, on the device.
        id: what lowers it most.
    """

    stage: str
    images: int
    networks: int
    id: str


def stage_needs(
    training: CheckedDataset,
    test: CheckedDataset,
    inverter: LatentInverter,
    walk: LatentWalk,
    discriminator: nn.Module,
    autoencoder: ImageAutoencoder | None,
    options: Mapping[str, Any],
) -> list[Need]:
    """What each stage needs, from networks that are not trained yet.

    Args:
        training, test: real images.
        inverter, walk, discriminator, autoencoder: as the stages will use them.
        options: the values of the ids of the bundle.
    """
    generator, embedding, encoder = walk.generator, inverter.embedding, inverter.encoder or nn.Identity()
    first = training.images[:1].to(walk.device)
    coder = autoencoder or nn.Identity()
    kept = _kept_per_image(training, inverter, walk, discriminator, coder)
    made, latent, judged, embedded, encoded, coded, who, what = kept
    others = (embedding, walk.identity_net, walk.class_net, coder)
    passing, embedding_passes, *judges_pass, coder_passes = _passing_per_image(first, generator, *others)
    number, at_once = len(training), images_at_once(generator.img_size)
    shown, seen = min(at_once, number) * passing, min(EMBEDDED_AT_ONCE, number) * embedding_passes
    coded_again = min(at_once, number) * coder_passes
    with torch.no_grad():
        width = embedding(first).shape[1]

    image = first.nbytes
    released = number if options["num_images"] is None else options["num_images"]
    held = training.images.nbytes
    both = held + test.images.nbytes
    # of all embeddings on both sides: released against real images, and real ones against those of other patients
    search, among = (min(MEMORY, 16 * width * n) for n in (number + released, 2 * (number + len(test))))
    batch = {name: options[f"{name}_batch_size"] for name in ("encoder", "inversion", "classifier", "evaluation")}
    feature_bytes, fits = _audited(first)
    points = options["points_per_batch"] or (options["num_points"] if walk.device.type == "cpu" else 1024)
    starts = inverter.settings.starts
    classifiers = _weights(walk.identity_net, walk.class_net)
    networks = _weights(generator, discriminator, embedding, encoder) + classifiers
    return [
        # three images through each network, see ``_kept``
        Need("check", both, networks + 3 * max(kept), "img_size"),
        # the images, their reconstructions, and the features of both
        Need("train_autoencoder", held, 4 * _weights(coder) + max(
                 coded_again, seen, options["autoencoder_batch_size"] * (coded + 2 * embedded),
             ), "autoencoder_batch_size"),
        # D sees real and generated images, and the penalty on its gradient keeps as much again
        Need("train", held, 5 * _weights(generator, discriminator)
             + max(shown, seen, coded_again, options["batch_size"] * (latent + 4 * judged)), "batch_size"),
        Need("train_encoder", 0, _weights(generator) + 4 * _weights(encoder)
             + batch["encoder"] * max(encoded + image, passing), "encoder_batch_size"),
        # the reconstructions of all images are made at the end
        Need("invert", held + 2 * number * image, max(among, shown, batch["inversion"] * (made + embedded)),
             "inversion_batch_size"),
        # the images, their reconstructions, and both in one
        Need("train_identity", held + number * image * (1 + 2 * starts), 4 * _weights(walk.identity_net)
             + max(shown, batch["classifier"] * 2 * who), "inversion_starts"),
        Need("train_class", 2 * held + number * image // 4, 4 * _weights(walk.class_net)
             + batch["classifier"] * what, "classifier_batch_size"),
        # of the points that it draws it keeps latents; of those that it chooses, images
        Need("anchors", 2 * both + released * image, _weights(generator) + classifiers
             + max(among, search, at_once * max(passing, *judges_pass)), "num_images"),
        Need("walk", 2 * both, classifiers + max(among, points * (made + who + what)), "points_per_batch"),
        Need("synthesize", held + 2 * released * image, _weights(generator) + shown, "num_images"),
        Need("evaluate", both + 4 * released * image, classifiers + max(search, batch["evaluation"] * what),
             "num_images"),
        # all images with their 32 bits, and features of them; it projects the test section as the stage invert did
        Need("audit", both + (number + len(test) + released) * image + number * feature_bytes,
             _weights(generator, embedding, encoder)
             + max(among, search, fits, batch["inversion"] * (made + embedded)), "num_images"),
    ]  # fmt: skip


def _audited(image: Tensor) -> tuple[int, int]:
    """Bytes of the features of a real image [1, C, *spatial] in the audit, and of the pairs that it fits at once."""
    smaller = small(image)
    features = RandomFeatureEmbedding(image.ndim - 2, image.shape[1])(smaller.cpu()).nbytes
    # of two blurs, and the batches of one of them before they are joined
    return 3 * features, MAPS_OF_A_FIT * CHUNK * smaller.element_size()


def _kept_per_image(
    training: CheckedDataset, inverter: LatentInverter, walk: LatentWalk, discriminator: nn.Module, coder: nn.Module
) -> tuple[int, ...]:
    """Bytes that the networks keep of one image more, see ``_kept``.

    Of G, of G before its decoder, of D, the embedding, the encoder, the autoencoder, φ_id and φ_class.
    """
    generator = walk.generator
    first, label = training.images[:1].to(walk.device), training.labels[:1].to(walk.device)

    def images(count: int) -> Tensor:
        return first.repeat(count, *[1] * (first.ndim - 1)).requires_grad_()

    def latents(count: int) -> Tensor:
        return torch.zeros(count, generator.w_dim, device=walk.device, requires_grad=True)

    def conditions(count: int) -> Tensor | None:
        return label.repeat(count) if generator.num_classes else None

    def before_decoder(count: int) -> Tensor:
        z = torch.zeros(count, generator.z_dim, device=walk.device)
        return BeforeDecoderInferer()(z, generator, conditions(count))

    with torch.no_grad():
        seen = before_decoder(1)
    others = (inverter.embedding, inverter.encoder or nn.Identity(), coder, walk.identity_net, walk.class_net)
    return (
        _kept(lambda count: generator.synthesis(latents(count))),
        _kept(before_decoder),
        _kept(
            lambda count: discriminator(seen.repeat(count, *[1] * (seen.ndim - 1)).requires_grad_(), conditions(count))
        ),
        *(_kept(lambda count, network=network: network(images(count))) for network in others),  # type: ignore[misc]
    )


def _passing_per_image(first: Tensor, generator: LatentDecoder, *networks: nn.Module) -> list[int]:
    """Bytes that G and networks of images take of one image more where nothing is learnt, see ``_passing``."""

    def images(count: int) -> Tensor:
        return first.repeat(count, *[1] * (first.ndim - 1))

    made = _passing(lambda count: generator.synthesis(torch.zeros(count, generator.w_dim, device=first.device)))
    return [made, *(_passing(lambda count, network=network: network(images(count))) for network in networks)]  # type: ignore[misc]


def check_memory(needs: Iterable[Need], device: torch.device, options: Mapping[str, Any]) -> str:
    """What the stages need, in words, if that fits.

    Raises:
        ConfigError: naming the first stage that cannot fit, and the id to lower.
    """
    told = []
    for need in needs:
        on_device = {"cuda": need.networks}.get(device.type, 0)
        told.append(f"{need.stage} {(ITSELF + need.images + need.networks) / GIB:.2f}")
        for place, bytes_needed, there in (
            ("this machine", ITSELF + need.images + need.networks - on_device, _machine_memory()),
            (str(device), on_device, torch.cuda.mem_get_info(device)[1] if on_device else None),
        ):
            if there is not None and bytes_needed > there:
                value = f", which is {options[need.id]!r}," if need.id in options else ""
                raise ConfigError(
                    f"the stage {need.stage} needs about {bytes_needed / GIB:.1f} GiB of memory, but {place} has "
                    f"{there / GIB:.1f}: lower {need.id}{value} or img_size."
                )
    return f"memory of the stages, about, in GiB: {', '.join(told)}"


def _kept(call: Callable[[int], Any]) -> int:
    """The bytes that one more item of a batch leaves behind for the backward pass."""

    def kept(count: int) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()  # itself, as a result of its own node, would be a cycle that is never given back

        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            result = call(count)  # held, or what it keeps would be given back and taken again
        del result
        return sum(storages.values())

    return max(kept(3) - kept(2), 0)


def _passing(call: Callable[[int], Any]) -> int:
    """The bytes that one item more of a batch takes, at most, while nothing is kept for a backward pass."""

    def most(count: int) -> int:
        with torch.no_grad(), _Alive() as alive:
            call(count)
        return alive.most

    return max(most(3) - most(2), 0)


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors made within it that are alive at a time.

    Attributes:
        most: the greatest number so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._holders: dict[int, int] = {}  # tensors, views included, of each storage

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {_storage(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(result):
            # of a storage that came from outside, a weight's, views are not counted
            if isinstance(tensor, Tensor) and (_storage(tensor) not in given or _storage(tensor) in self._holders):
                self._hold(_storage(tensor), tensor)
        self.most = max(self.most, self._now)
        return result

    def _hold(self, storage: int, tensor: Tensor) -> None:
        size = tensor.untyped_storage().nbytes()
        self._now += 0 if storage in self._holders else size
        self._holders[storage] = self._holders.get(storage, 0) + 1
        weakref.finalize(tensor, self._let_go, storage, size)

    def _let_go(self, storage: int, size: int) -> None:
        self._holders[storage] -= 1
        if not self._holders[storage]:
            del self._holders[storage]
            self._now -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _weights(*networks: nn.Module) -> int:
    return sum(parameter.nbytes for network in networks for parameter in network.parameters())


def _machine_memory() -> int | None:
    """The bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None

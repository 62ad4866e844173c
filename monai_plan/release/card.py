"""The data set card: what a release is, for whoever finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_plan.release.words import as_markdown

__all__ = ["dataset_card"]


def dataset_card(
    *,
    name: str,
    classes: Mapping[int, tuple[str, int]],
    shape: tuple[int, ...],
    made_from: str,
    images: str,
    subject: str,
    walk: str,
    check: str,
    values: str | None = None,
    spacing: Sequence[float] | None = None,
    autoencoder_source: str | None = None,
) -> str:
    """The card as Markdown.

    Args:
        name: of the data set.
        classes: class → (name, number of images).
        shape: [C, *spatial] of an image.
        made_from: how many real images of how many patients.
        images: what the images are, in words.
        subject: what the subject of an image is.
        walk: the recipe of the walk.
        check: the final check of the distance.
        values: what 0 to 255 stand for in the real images, such as "-1000 to 400"; None where these have 8 bits, too.
        spacing: of a volume's voxels, in mm, one number per axis; None for images in 2D.
        autoencoder_source: what a published autoencoder behind the generator was trained on, since whoever is in that
            data may be among the patients here; None without such a one.
    """
    channels, *spatial = shape
    rows = "".join(
        f"| {label} | {as_markdown(text)} | {number} |\n" for label, (text, number) in sorted(classes.items())
    )  # fmt: skip
    return _CARD.format(
        name=as_markdown(name),
        num_images=sum(number for _, number in classes.values()),
        rows=rows,
        spatial=" × ".join(map(str, spatial)),
        voxels="" if spacing is None else f" voxels of {' × '.join(f'{mm:.4g}' for mm in spacing)} mm",
        channels=channels,
        values="" if values is None else f"\n- The values 0 to 255 stand for {values}.",
        made_from=made_from,
        images=images,
        subject=subject,
        walk=walk,
        check=check,
        autoencoder="" if autoencoder_source is None else _AUTOENCODER.format(source=as_markdown(autoencoder_source)),
    )


_AUTOENCODER = """
- Decoded by a published autoencoder, which was trained on: {source}. Patients of that data were not audited."""
_CARD = """# {name}

{num_images} synthetic images, {spatial}{voxels}, {channels} channel(s), 8 bits per value, made with monai_plan by the
method PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984).

| label | class | images |
|---|---|---|
{rows}
- Read it with `monai.data.load_decathlon_datalist("datalist.json", is_segmentation=False)`.
- {subject}
- Made from {made_from}, by a generative network trained on them. The images are {images}.{autoencoder}{values}
- Walk: {walk}. Final check of the distance: {check}.

What is not promised: that nothing about a patient can be inferred. The attacks in the report beside this card found
what they found; empirical attacks are no proof. The images are not fit for diagnosis.
"""

"""The cards of what leaves: what it is, how it was made, what the audit found and what it would not have found."""

from __future__ import annotations

from typing import Any

from monai_plan.audit.measures import Spread
from monai_plan.bundle.gate.audited import Audited
from monai_plan.release import as_markdown
from monai_plan.utils import read_json

__all__ = ["classifier_card", "data_card", "generator_card"]


def data_card(card: str, audited: Audited, authors: str) -> str:
    """The card of the data set with the audit below it.

    Args:
        card: what the stage ``synthesize`` wrote.
        audited: the release.
        authors: who releases it.
    """
    return f"{card.rstrip()}\n\nReleased by: {as_markdown(authors)}.\n\n{_audit_section(audited, '')}\n{_CHECK}"


def classifier_card(audited: Audited, *, name: str, authors: str, scaling: dict[str, Any]) -> str:
    """The model card of a classifier."""
    release = audited.release
    ends = [f"{scaling[key]:g}" for key in ("lower", "upper", "a_min", "a_max") if key in scaling]
    of_each = " of each image's values (percentiles)" if "lower" in scaling else ""
    return _CLASSIFIER.format(
        title=as_markdown(name.replace("_", " ")),
        name=name,
        authors=as_markdown(authors),
        classes="\n".join(
            f"| {label} | {as_markdown(release.label_names[label])} | {release.labels.count(label)} |"
            for label in sorted(release.label_names)
        ),
        size=" × ".join(map(str, release.img_size)),
        channels="grey" if release.img_channels == 1 else "RGB",
        count=len(release),
        reader="nibabel" if len(release.img_size) == 3 else "pillow",
        scaling=f"{ends[0]} to {ends[1]}{of_each}",
        utility=_utility(audited),
        audit=_audit_section(audited, "audit/"),
        check=_CHECK,
    )


def generator_card(audited: Audited, *, name: str, authors: str) -> str:
    """The model card of a generator."""
    return _GENERATOR.format(
        title=as_markdown(name.replace("_", " ")),
        name=name,
        authors=as_markdown(authors),
        count=len(audited.release),
        audit=_audit_section(audited, "audit/"),
        check=_CHECK,
    )


def _audit_section(audited: Audited, folder: str) -> str:
    """What the audit found, row by row, with its limit of detection."""
    audit = audited.audit
    rows = "".join(
        f"| {as_markdown(row['title'])} | {as_markdown(row['verdict'])} | {as_markdown(row['sentence'])} | "
        f"{as_markdown(row['power'])} |\n"
        for row in audit["rows"]
    )
    who = "patients" if audit["has_subjects"] else "images (no patients were named)"
    return _AUDIT.format(
        folder=folder,
        verdict=as_markdown(f"{audit['verdict']}. {audit['summary']}"),
        rows=rows,
        members=audit["num_member_patients"],
        held_out=audit["num_held_out_patients"],
        who=who,
    )


def _utility(audited: Audited) -> str:
    """The classifiers of the report: trained alike on the same images, and tested on real patients."""
    evaluation = read_json(audited.release.folder / "evaluation.json", what="the table of the report")
    rows = []
    for row in (evaluation["rows"][0], evaluation["rows"][-1]):
        cells = []
        for score in ("accuracy", "balanced_accuracy", "auc"):
            cells.append(Spread(tuple(row["results"]["utility"][score])).percent)
        kind = "real images" if row is evaluation["rows"][0] else "the synthetic images"
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    several = len(evaluation["rows"][0]["results"]["utility"]["auc"]) > 1
    return _UTILITY.format(
        spread=", mean ± sd" if several else ", of one training each",
        rows="\n".join(rows),
        images=evaluation["num_test_images"],
        patients=evaluation["num_test_patients"],
    )


_AUDIT = """## What the audit found

{verdict} The whole: [{folder}audit.html]({folder}audit.html). Attacked with {members} {who} who took part
and {held_out} who did not. Empirical attacks are no proof: what the last column names would not have been noticed.

| attack | verdict | what it says | limit of detection |
|---|---|---|---|
{rows}"""
_CHECK = """## Is this copy whole?

`manifest.json` holds the SHA-256 of every file: `monai-plan verify-bundle .` checks them, and its `digest` can be
compared with the one that the owner published.
"""
_UTILITY = """Classifiers of the same form, trained in the same way and for as many steps, tested on {images} real
images of {patients} patients who took no part in anything (in %{spread}):

| trained on | accuracy | balanced accuracy | AUC |
|---|---:|---:|---:|
{rows}
"""
_CLASSIFIER = """# {title}

A residual network that tells {channels} images of {size} apart. It was trained on {count} synthetic images alone, by
`configs/train.json`, from random weights. Released by: {authors}.

| class | name | synthetic images |
|---|---|---:|
{classes}

## Use

With MONAI and what it needs for this (`pip install "monai[fire,ignite,{reader}]"`); monai\\_plan is not needed. Images
in a folder, the probabilities of the classes in `eval/predictions.csv`:

```bash
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir IMAGES
```

On labelled images of your own, `datalist.json` with a section `test` in Decathlon's form, AUC in `eval/metrics.csv`:

```bash
python -m monai.bundle run --config_file "['configs/inference.json','configs/evaluate.json']" \\
    --bundle_root . --dataset_dir DIR
```

In Python: `monai.bundle.load("{name}", bundle_dir=PARENT, workflow_type="inference")`, with
`return_state_dict=False` before MONAI 1.5. The network takes images scaled so that {scaling} become -1
and 1, and gives logits.

## How good

{utility}
It is not fit for diagnosis, and images of another device or another hospital were not tried.

{audit}
{check}"""
_GENERATOR = """# {title}

A StyleGAN2 that was **trained on patients' images**, and {count} points of its latent space whose images were
checked and audited (`models/points.pt`). Released by: {authors}, who accepted the risk: whoever has a generator can
make images that nobody has checked, and search it for people.

## Use

With monai\\_plan installed, the images of the points, in `eval/`:

```bash
python -m monai.bundle run --config_file configs/inference.json --bundle_root .
```

{audit}
{check}"""

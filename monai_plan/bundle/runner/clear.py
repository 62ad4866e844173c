"""What goes before a stage begins anew, and what must not outlive a removed patient.

The records decide. Files with the digest that a stage recorded, and all that a stage left which had started and was
stopped, are deleted. What nobody vouches for may be somebody's work: it is moved to ``private/replaced/``, and every
run says at its end that it lies there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from monai_plan.bundle.runner.record import Fingerprint, StageRecord, contents, differences, recorded_stages
from monai_plan.bundle.runner.stages_file import REPLACED, Stage, covers, dependents
from monai_plan.utils import is_temporary

Echo = Callable[[str], object]


def make_way(stage: Stage, record: StageRecord, now: Fingerprint, output: Path, echo: Echo) -> None:
    """Clear the place of a stage that begins anew.

    The work folder stays if it was filled with the same fingerprint (a finished stage whose output was lost), but not
    where an output is no longer what the stage wrote: then somebody, on other data perhaps, has worked there since.
    """
    nobodys = [stage.work] if record.made_with is None and contents(output, stage.work) else []
    written = [item for write in stage.writes for item in contents(output, write).items()]
    foreign = not all(record.vouches_for(*item) for item in written)
    if record.made_with is not None and (foreign or differences(record.made_with, now)):
        _remove(output / stage.work)
    _clear(stage, stage.writes, record, output, echo, aside=nobodys)


def withdraw_release(
    changed: Stage, stages: Sequence[Stage], records: Mapping[str, StageRecord], output: Path, echo: Echo
) -> set[str]:
    """Before ``changed`` is done again, remove what the stages that depend on it have released.

    Returns:
        The names of the stages of which something was removed.
    """
    withdrawn = set()
    for stage in dependents(changed, stages):
        released = [write for write in stage.writes if covers("release", write) and (output / write).exists()]
        if released:
            _clear(stage, released, records[stage.name], output, echo)
            withdrawn.add(stage.name)
    if withdrawn:
        echo("    the release is withdrawn until it is made again: it depends on this stage")
    return withdrawn


def remove_leftovers(stages: Sequence[Stage], output: Path, echo: Echo) -> None:
    """Remove what a kill left half written, and what stages wrote that the bundle no longer has."""
    for folder in (output / "private", output / "release"):
        for place, folders, files in os.walk(folder):
            for name in [*folders, *files]:
                if is_temporary(name):
                    _remove(Path(place) / name)
            folders[:] = [name for name in folders if not is_temporary(name)]
    places = [place for stage in stages for place in stage.places]
    for name in sorted(recorded_stages(output) - {stage.name for stage in stages}):
        record = StageRecord(output, name, echo)
        for file in (record.finished or {"writes": {}})["writes"]:
            if all(record.vouches_for(*item) for item in contents(output, file).items()):
                _remove(output / file)
        work = f"private/{name}"
        if not any(covers(place, work) or covers(work, place) for place in places):
            _remove(output / work)
        record.delete()
        echo(f"{name} is no stage of this bundle any more: what it wrote is deleted")


def tell_of_replaced(output: Path, echo: Echo) -> None:
    """Say, each time, that files lie there which nobody but the user can judge."""
    if (output / REPLACED).is_dir() and any((output / REPLACED).iterdir()):
        echo(
            f"{output / REPLACED} holds files that were in the way and that no run on record made. What was made of a "
            "patient who is to be erased may be among them: look, and delete the folder."
        )


def _clear(
    stage: Stage, writes: Sequence[str], record: StageRecord, output: Path, echo: Echo, aside: Sequence[str] = ()
) -> None:
    """Move ``aside``, and what nobody vouches for in ``writes``, to ``replaced/``; remove the rest of ``writes``."""
    foreign = [
        *aside,
        *(
            file
            for write in writes
            for file, sha256 in contents(output, write).items()
            if not record.vouches_for(file, sha256)
        ),
    ]
    if foreign:
        number = 1
        while (folder := output / REPLACED / f"{stage.name}-{number}").exists():
            number += 1
        for path in foreign:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(output / path, folder / path)
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        echo(f"    {foreign[0]}{others}: not left there by a recorded stage of this command, moved to {folder}")
    for write in writes:
        _remove(output / write)


def _remove(path: Path) -> None:
    """Delete a file or a folder; of a link to a folder, what lies there, for the link itself is the user's."""
    if path.is_symlink() and path.is_dir():
        for child in path.iterdir():
            _delete(child)
    else:
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""Exclusion: can somebody show that a person did *not* take part, because the release comes too near to them?"""

from __future__ import annotations

from torch import Tensor

from monai_plan.audit.attacks import Embedder, People
from monai_plan.audit.attacks.maps import stretched
from monai_plan.audit.findings import ALARM
from monai_plan.audit.rows import Row
from monai_plan.audit.statistics import exact_interval, rank_test, smallest_rate
from monai_plan.metrics import nearest_real_images

__all__ = ["EXCLUSION_FIGURES", "exclusion_row", "of_nearness"]

EXCLUSION_FIGURES = ("p", "held_out", "held_out_low", "held_out_high", "members", "members_low", "members_high")


def exclusion_row(embedder: Embedder, *, members: People, held_out: People, released: Tensor) -> Row:
    """Whether held-out patients lie nearer to the release than every member does.

    A release that drops images near to its patients leaves a hole around each. Whoever lies in the hole's inside took
    part or has nobody near; whoever has a released image next to him did not take part. Of each patient the least
    distance to the release counts, after the values of every image were stretched to one range: a release that is
    darker than the real images as a whole, or read so, would be far from all.

    Args:
        embedder: of the distance.
        members, held_out: real images.
        released: [N, C, *spatial].
    """
    sides, released = [], stretched(released)
    for side in (members, held_out):
        images, size = stretched(side.images), embedder.batch_size(released)
        least = nearest_real_images(
            images, released, embedder.embedding, batch_size=size, device=embedder.device
        ).distances.cpu()
        numbers = side.numbers
        empty = least.new_zeros(int(numbers.max()) + 1)
        sides.append(-empty.scatter_reduce(0, numbers, least, "amin", include_self=False))
    return of_nearness(*sides)


def of_nearness(inside: Tensor, outside: Tensor) -> Row:
    """The row, from minus the least distance of every member and of every held-out patient to the release."""
    test, control = (rank_test(a.numpy(), b.numpy()) for a, b in ((outside, inside), (inside, outside)))
    share, of_members = exact_interval(test.above, test.tested), exact_interval(control.above, control.tested)
    alarm = test.p_value < ALARM
    return Row(
        name="exclusion",
        title="Exclusion",
        category="inference",
        attacker="the released images and images of the person sought",
        main=f"{test.above} of {test.tested} held-out patients nearer than every member, p = {test.p_value:.2g}",
        control=f"{control.above} of {control.tested} members nearer than every held-out patient",
        baseline="equal shares",
        power=f"shares below {100 * smallest_rate(test.tested):.2g} % would not be noticed",
        verdict="Alarm" if alarm else "Nothing found",
        sentence=(
            f"Alarm: the release keeps a distance from those who took part that it does not keep from others: of "
            f"{test.above} held-out patients it can be shown that they did not take part (p = {test.p_value:.2g})."
            if alarm
            else "Nothing found: the release does not lie nearer to those who did not take part."
        ),
        figures={
            "p": test.p_value,
            "held_out": share.value,
            "held_out_low": share.low,
            "held_out_high": share.high,
            "members": of_members.value,
            "members_low": of_members.low,
            "members_high": of_members.high,
        },
    )

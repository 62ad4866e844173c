"""Words of others: refused, or written so that they stay text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch

from monai_plan.audit.figures import image_sheet, png_of
from monai_plan.release import as_markdown, check_words, dataset_card
from monai_plan.utils import ConfigError

HOSTILE = "<script>alert(1)</script> | 9 |\\ ## Approved `x` $\\foo$ [a](b) &lt; ~~no~~"


BAD = ["a\nb", "a\r", "\x00", "a\u2028b", "\ud800", "a\u202eb", "zero\u200bwidth", "", "  ", "\x1b[2J"]


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_seen_is_refused(bad):
    with pytest.raises(ConfigError, match=r"release_name is '.*' and .*, but goes into the release: give it") as error:
        check_words(release_name=bad, label_names={})
    assert str(error.value).isascii()  # so that a terminal can print it
    with pytest.raises(ConfigError, match='"labels" of the data list: the name of class 1 is '):
        check_words(release_name="good", label_names={0: "normal", 1: bad})


@pytest.mark.parametrize(
    ("one", "other"),
    [("Lesion", "lesion"), ("lesion", "lesi\u043en"), ("a b", "a  b"), ("caf\u00e9", "cafe"), ("G0", "GO"), ("I", "l")],
)
def test_names_that_look_alike_are_refused(one, other):
    with pytest.raises(ConfigError, match=r"the names of the classes 0 and 3, .* look alike: give one of them another"):
        check_words(release_name="x", label_names={0: one, 2: "third", 3: other})


def test_names_of_all_alphabets_pass():
    names = [
        "normal",
        "lesion",
        "\u043d\u043e\u0440\u043c\u0430",
        "\u6b63\u5e38",
        "Läsion",
        "stage 2",
        "stage 3",
        HOSTILE,
    ]
    check_words(release_name="Röntgen (2024)", label_names=dict(enumerate(names)))


class Text(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_hostile_words_stay_text_in_a_card():
    card = dataset_card(
        name=HOSTILE, classes={0: (HOSTILE, 5), 1: ("lesion", 2)}, shape=(1, 8, 8), made_from="x", images="y",
        subject="s", walk="z", check="none",
    )  # fmt: skip
    page = Text()
    page.feed(card)
    assert page.tags == []
    assert "<script>alert(1)</script>" in page.text
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert [len(row.replace("\\\\", "").replace("\\|", "").split("|")) for row in rows] == [5] * 4
    assert as_markdown("no lesion (1)") == "no lesion (1)"
    assert as_markdown("a_b`$") == "a\\_b\\`\\$"


def test_hostile_words_do_not_end_a_figure():
    png_of(image_sheet({HOSTILE: {"": torch.zeros(2, 1, 4, 4)}, "$": {"": torch.zeros(1, 1, 4, 4)}}))

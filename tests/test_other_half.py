"The rows of chapter 05 that ship, and the tables made of them."
import pytest

from facecp_nb import study
from facecp_nb.core import ConfigError


@pytest.fixture(scope="module")
def rows(): return study.measured_rows("other_half")


def test_every_network_of_the_studies_was_asked_about_every_picture(rows):
    for about, name in (("halves", "halves"), ("taught", "taught-halves")):
        own, stored = rows[rows.about == about], study.shipped_rows(name, "quick").set_index("condition")
        assert set(own.condition) == set(stored.index)
        for condition, part in own.groupby("condition", observed=True):
            assert sorted(part.seed.unique()) == sorted(stored.seeds[condition])
        assert (own.groupby(["condition", "asked", "seed"], observed=True).size() == 500).all()


def test_twins_are_asked_about_two_pictures_of_everybody(rows):
    own = rows[rows.about == "twins"]
    assert (own.groupby(["condition", "asked", "seed"], observed=True).size() == 100).all()
    assert set(own.correct) == {0., .5, 1.} and own.cost.notna().all()


def test_a_difference_of_a_condition_with_itself_is_nothing(rows):
    own = rows[rows.about == "paths"]
    found = study.asked_differences(own, [("two-paths c", "two-paths c")], "upper path").iloc[0]
    assert found.difference == found.low == found.high == 0


def test_unknown_questions_and_conditions_are_refused(rows):
    with pytest.raises(ConfigError, match="question"): study.asked_differences(rows, [("a", "b")], "chin")
    with pytest.raises(ConfigError, match="condition"): study.asked_differences(rows, [("a", "b")], "upper")

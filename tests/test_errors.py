"""One root, two exit codes, and a message that names the nearest known name."""

import pytest

from rhapsode.errors import RhapsodeError, StateError, UserError, unknown_name


def test_exit_codes_and_parents() -> None:
    assert UserError("x").exit_code == 2
    assert StateError("x").exit_code == 1
    assert issubclass(UserError, RhapsodeError)
    assert issubclass(UserError, ValueError)
    assert issubclass(StateError, RhapsodeError)
    assert issubclass(StateError, RuntimeError)
    assert not issubclass(StateError, UserError)


def test_unknown_name_gives_the_nearest_match_and_then_the_list() -> None:
    error = unknown_name("model.mix", "atention", ["sliding", "attention"])
    assert isinstance(error, UserError)
    assert str(error) == "model.mix must be one of attention, sliding; got 'atention'. Did you mean 'attention'?"


def test_unknown_name_guesses_nothing_far_away() -> None:
    error = unknown_name("model.mix", "zzz", ["attention", "sliding"])
    assert str(error) == "model.mix must be one of attention, sliding; got 'zzz'. Choose one of these."


@pytest.mark.parametrize("error", [UserError, StateError])
def test_one_root_catches_all(error: type[RhapsodeError]) -> None:
    with pytest.raises(RhapsodeError, match="a plain sentence"):
        raise error("a plain sentence")

"""What a request asks for is read from both places, and a contradiction is refused."""

import pytest

from service.errors import InvalidRequestError
from service.options import Options, read_options, require_known


def test_fields_are_read_and_others_ignored() -> None:
    """Only the two names count; nothing given is nothing asked."""
    assert read_options([("explain", "mel"), ("prevalence", "0.1"), ("note", "x")]) == Options("mel", 0.1)
    assert read_options([]) == Options(None, None)


@pytest.mark.parametrize("text", ["", "x", "0", "1", "-0.1", "nan", "inf", "1e-999", "10%", "0,1"])
def test_a_prevalence_that_is_no_share_is_refused_unquoted(text: str) -> None:
    """The message says what is expected, and quotes nothing."""
    with pytest.raises(InvalidRequestError, match="^prevalence must be a number between 0 and 1, both excluded$"):
        read_options([("prevalence", text)])


def test_two_places_are_joined() -> None:
    """Each may give what the other does not, or the same."""
    assert Options("mel", None).joined(Options(None, 0.1)) == Options("mel", 0.1)
    assert Options(None, 0.1).joined(Options("mel", 0.1)) == Options("mel", 0.1)


@pytest.mark.parametrize(
    ("here", "there", "name"),
    [(Options("mel"), Options("nv"), "explain"), (Options(None, 0.1), Options(None, 0.2), "prevalence")],
)
def test_a_contradiction_is_refused(here: Options, there: Options, name: str) -> None:
    """The service does not choose."""
    with pytest.raises(InvalidRequestError, match=f"{name} is given twice"):
        here.joined(there)
    with pytest.raises(InvalidRequestError, match="given twice"):
        read_options([(name, str(getattr(each, name))) for each in (here, there)])


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    """`first` and the model's classes are known; the message lists them and does not quote the request."""
    require_known(Options("first"), ("mel", "nv"))
    require_known(Options("mel"), ("mel", "nv"))
    with pytest.raises(InvalidRequestError, match="'first' or one of the classes mel, nv") as refused:
        require_known(Options("Jane Roe"), ("mel", "nv"))
    assert "Roe" not in str(refused.value)

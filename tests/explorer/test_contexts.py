"""What is drawn of a sample: which token fired, which caused it, how strongly, and nothing of its text as markup."""

from typing import Any

from explorer.contexts import line


def context(**changed: Any) -> dict[str, Any]:
    causes = [{"position": 10, "share": 0.8}, {"position": 12, "share": 0.2}]
    row = {"tokens": ["<b>", " cat", "\n", " sat", "."], "first_position": 10, "position": 13, "activation": 2.0,
           "causes": causes, "activations": None}  # fmt: skip
    return {**row, **changed}


def test_the_firing_token_and_its_causes_have_their_heat() -> None:
    found = line(context(), greatest=4.0)
    assert found is not None
    assert (str(found.token.html), found.token.own, found.token.cause) == (" sat", 4, 0)
    assert [(str(span.html)[:9], span.cause, span.share) for span in found.before] == [
        ("&lt;b&gt;", 9, 0.8),
        (" cat", 0, None),
        ("↵<span cl", 2, 0.2),
    ]
    assert [str(span.html) for span in found.after] == ["."]


def test_activations_of_neighbours_have_their_heat_where_they_are_kept() -> None:
    found = line(context(activations=[0.0, 1.0, 0.0, 2.0, 4.0], causes=None), greatest=4.0)
    assert found is not None
    assert [span.own for span in found.before] == [0, 2, 0]
    assert (found.token.own, [span.own for span in found.after]) == (4, [9])


def test_a_character_of_several_tokens_is_the_firing_one_as_a_whole() -> None:
    found = line(context(tokens=["a", "é", "", "", "b"], position=13, causes=None), greatest=2.0)
    assert found is not None
    assert (str(found.token.html), found.token.own) == ("é", 9)
    assert "".join(str(span.html) for span in found.after) == "b"


def test_without_text_there_is_no_line() -> None:
    assert line(context(tokens=None), greatest=1.0) is None

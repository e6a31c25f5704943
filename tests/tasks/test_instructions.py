"""Instructions of language models: files with versions, and users' own in their place."""

from pathlib import Path
from typing import get_args

import pytest

from interp.descriptions.llm_questions import FENCE_NOTE, Purpose
from interp.fade.model_judge import TEXTS_PER_WRITING
from tasks.llm.instructions import instructions, prompt_file


def test_every_kind_of_question_has_a_version_and_says_that_texts_are_data() -> None:
    said = instructions()
    assert said.keys() == set(get_args(Purpose))
    assert all(FENCE_NOTE in text and "{" not in text.replace(FENCE_NOTE, "") for text in said.values())
    assert all(prompt_file(purpose).version.isdigit() for purpose in get_args(Purpose))
    assert f"Write {TEXTS_PER_WRITING} texts" in said["synthesise"]


def test_a_file_of_ones_own_takes_the_place_of_ours_and_is_known_by_its_content(tmp_path: Path) -> None:
    own = tmp_path / "rate.md"
    own.write_text("Rate {these} not.")
    with pytest.raises(ValueError, match=r"prompts\.rate: .*rate\.md has the placeholder \{these\}; expected"):
        prompt_file("rate", own)
    own.write_text("Rate.")
    with pytest.raises(ValueError, match=r"lacks \{fence_note\}"):
        prompt_file("rate", own)
    own.write_bytes(b"\xff {fence_note}")
    with pytest.raises(ValueError, match=r"rate\.md is not UTF-8"):
        prompt_file("rate", own)
    with pytest.raises(ValueError, match=r"prompts\.rate: .*nothing\.md"):
        prompt_file("rate", tmp_path / "nothing.md")
    own.write_text('Rate as {"ratings": []} says. {fence_note}')
    said = instructions({"rate": own})
    assert said["rate"] == f'Rate as {{"ratings": []}} says. {FENCE_NOTE}'
    assert said["mark"] == instructions()["mark"]
    before = prompt_file("rate", own).identity
    assert before[0] == "own"
    own.write_text("Rate well. {fence_note}")
    assert prompt_file("rate", own).identity != before

"""`steer` and `intervene` on the planted model: what they say of known circuits, and of what makes no sense."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.one_prompt.asked import Amount, asked_feature, asked_head, positions_of
from interp.interventions.changes import EVERYWHERE
from tests.planted import D_MODEL


def invoke(root: Path, *arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), "--store", str(root)])
    assert result.exit_code == 0, result.output
    return result.stdout


def answered(root: Path, *arguments: object) -> list[Any]:
    return [json.loads(line) for line in invoke(root, *arguments, "--json").splitlines() if line.startswith("{")]


def refused(root: Path, *arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), "--store", str(root)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_a_held_feature_makes_the_model_write_what_it_promotes(planted_root: Path) -> None:
    [found] = answered(planted_root, "steer", "word3 word4", "--feature", "1/2=20", "--new-tokens", 4)
    assert found["steered"]["text"] == "word9 word9 word9 word9"
    assert found["original"]["text"] != found["steered"]["text"]
    first = found["steered"]["tokens"][0]
    assert first["steered_probability"] > 0.7 > 0.1 > first["probability"]
    assert found["kl_next"] > 1
    [from_the_end] = answered(planted_root, "steer", "word3 word4", "--feature", "1/2@generated=20", "--new-tokens", 4)
    assert from_the_end["steered"]["text"] == found["steered"]["text"]
    [at_first] = answered(planted_root, "steer", "word3 word4", "--feature", "1/2@1=20", "--new-tokens", 4)
    assert at_first["steered"]["text"] == found["original"]["text"]
    assert at_first["kl_mean"] == pytest.approx(0, abs=1e-6)


def test_prompts_of_a_batch_are_steered_as_if_alone(planted_root: Path, tmp_path: Path) -> None:
    prompts = ["word5", "word3 word4", "word7", "word1 word2 word5"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    how = ("--feature", "0/3=add:-2", "--feature", "1/2=0..3", "--new-tokens", 3)
    together = answered(planted_root, "steer", "--prompts", tmp_path / "prompts.txt", *how)
    assert [one["prompt"] for one in together] == prompts
    for one in (together[0], together[3]):
        [other] = answered(planted_root, "steer", one["prompt"], *how)
        assert one["steered"]["text"] == other["steered"]["text"]
        assert one["kl_next"] == pytest.approx(other["kl_next"], abs=1e-5)


def test_draws_follow_the_seed(planted_root: Path) -> None:
    how = ("steer", "word3", "--feature", "1/2=1", "--new-tokens", 8, "--temperature", 1.5)
    first, again, other = (answered(planted_root, *how, "--seed", seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert first["original"]["text"] != other["original"]["text"]


def test_steering_is_shown_side_by_side(planted_root: Path) -> None:
    said = invoke(planted_root, "steer", "<s> word3 word4", "--feature", "1/2=20", "--new-tokens", 2)
    assert "steered   word9 word9" in said
    assert "KL divergence" in said


def test_the_planted_feature_is_found_and_others_do_nothing(planted_root: Path) -> None:
    for feature, moves in (("0/3", True), ("0/1", False), ("0/7", False), ("1/5", False)):
        [found] = answered(
            planted_root, "intervene", "word3 word5", "--feature", f"{feature}=off", "--target", "feature:1/2",
            "--target", "word9|word11",
        )  # fmt: skip
        upstream, logits = found["effects"]
        assert (upstream["predicted"] < -1) == (upstream["measured"] < -1) == moves
        # What 1/2 promotes hangs on it through 1/2 alone: no direct contribution, but a path.
        assert logits["predicted"] == pytest.approx(0, abs=1e-5)
        assert (logits["predicted_paths"] < -0.1) == (logits["measured"] < -0.1) == moves


def test_predicted_is_measured_where_nothing_is_left_that_is_not_linear(planted_root: Path) -> None:
    [found] = answered(planted_root, "intervene", "word3 word5", "--feature", "0/3=add:1", "--target", "feature:1/2")
    effect = found["effects"][0]
    assert effect["predicted"] > 0.1
    for name in ("predicted_paths", "measured_frozen"):
        assert effect[name] == pytest.approx(effect["predicted"], rel=1e-4)


def test_a_swap_brings_what_the_other_prompt_has(planted_root: Path) -> None:
    swapped = ("intervene", "word3 word4", "--feature", "0/3=swap", "--target", "feature:1/2", "--swap-from")
    [found] = answered(planted_root, *swapped, "word3 word5")
    assert found["effects"][0]["measured"] > 1
    [nothing] = answered(planted_root, *swapped, "word4 word8")
    assert nothing["effects"][0]["measured"] == 0
    [heads] = answered(planted_root, *swapped, "word3 word5", "--head", "0.1=swap", "--head", "1.0@-1=mean")
    assert heads["effects"][0]["measured"] == pytest.approx(found["effects"][0]["measured"])


def test_directions_and_positions_are_targets(planted_root: Path, tmp_path: Path) -> None:
    direction = np.zeros(D_MODEL, np.float32)
    direction[9] = 1
    np.save(tmp_path / "nine.npy", direction)
    target = f"direction:{tmp_path / 'nine.npy'}"
    [found] = answered(
        planted_root, "intervene", "word5 word3", "--feature", "1/2@1=off",
        "--target", f"{target}@1", "--target", target, "--target", "word9@1",
    )  # fmt: skip
    at_five, at_last, logit = found["effects"]
    assert at_five["measured"] < -0.5
    assert at_last["measured"] == pytest.approx(0, abs=1e-6)
    assert logit["measured"] < -0.5
    assert [one["target"].split("@")[-1] for one in (at_five, logit)] == ["1", "1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("steer", " ", "--feature", "1/2=1"), "the prompt is empty; give some text"),
        (("steer", "word3"), "--feature: name one to change"),
        (("steer", "word3", "--feature", "1/2"), "feature '1/2': expected LAYER/FEATURE=VALUE"),
        (("steer", "word3", "--feature", "1/2=loud"), "'loud' is not a number"),
        (("steer", "word3", "--feature", "1/2=nan"), "'nan' is not a number"),
        (("steer", "word3", "--feature", "2/0=1"), "no feature 0 in layer 2: planted has layers 0-1, features 0-15"),
        (("steer", "word3", "--feature", "1/16=1"), "no feature 16 in layer 1"),
        (("steer", "word3", "--feature", "1/2=2x"), "the greatest activation of 1/2 is not known"),
        (("steer", "word3", "--feature", "1/2=5..1"), "there is no number between 5 and 1"),
        (("steer", "word3", "--feature", "1/2@7=1"), "no position 7; the prompt has 2 tokens, 0-1"),
        (("steer", "word3", "--feature", "1/2@last=1"), "positions 'last'; expected a position"),
        (("steer", "word3", "--feature", "1/2=1", "--feature", "1/2@0=2"), "change the same thing at the same"),
        (("steer", "word3", "--feature", "1/2=swap"), "swap needs another prompt"),
        (("steer", "word3", "--feature", "1/2=1", "--new-tokens", 0), "new tokens are 0; expected at least 1"),
        (("steer", "word3", "--feature", "1/2=1", "--new-tokens", 63), "the model reads 64 at most"),
        (("steer", "word3", "--feature", "1/2=1", "--top-p", 0), "top-p 0; expected"),
        (("steer", "word3", "--feature", "1/2=1", "--chat"), "has no chat template"),
        (("intervene", "", "--feature", "1/2=1"), "the prompt is empty"),
        (("intervene", "word3"), "--feature, --head: name one to change"),
        (("intervene", "word3", "--head", "0.2=off"), "no head 2 in layer 0: the model has layers 0-1, heads 0-1"),
        (("intervene", "word3", "--head", "0.1=3"), "head '0.1=3': expected LAYER.HEAD=VALUE"),
        (("intervene", "word3", "--feature", "1/2=swap"), "give it with --swap-from"),
        (
            ("intervene", "word3 word4", "--feature", "1/2=swap", "--swap-from", "word3"),
            "position 0 has no counterpart in the other prompt",
        ),
        (("intervene", "word3", "--feature", "1/2=1", "--target", "two words"), "is 2 tokens"),
        (("intervene", "word3", "--feature", "1/2=1", "--target", "#99"), "no such token; the vocabulary has 32"),
        (("intervene", "word3", "--feature", "1/2=1", "--target", "feature:9/9"), "no feature 9 in layer 9"),
        (("intervene", "word3", "--feature", "1/2=1", "--target", "word9@5"), "no position 5"),
        (("intervene", "word3", "--feature", "1/2=1", "--target", "direction:none.npy"), "none.npy cannot be read"),
        (("attribute", "word3", "--output", "a.json", "--target", "two words"), "is 2 tokens"),
        (("attribute", "word3", "--output", "a.json", "--target", "feature:1/2@0,5"), "no position 5"),
        (("attribute", "word3", "--output", "a.json", "--target", "@2:"), "positions '2:' are not in the prompt"),
        (
            ("intervene", "word3", "--feature", "1/2=1", "--config", "c.yaml", "--checkpoint", "x"),
            "give one of the two",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(planted_root: Path, arguments: tuple[object, ...], said: str) -> None:
    assert said in refused(planted_root, *arguments)


def test_changes_are_read_as_they_are_written() -> None:
    assert asked_feature("12/345=+8").low == Amount(8.0)
    assert asked_feature("12/345@-1=-2.5x")[1:5] == (12, 345, False, "-1")
    assert asked_feature("12/345@-1=-2.5x").high == Amount(-2.5, of_maximum=True)
    assert asked_feature("1/2=0.5x..4").low == Amount(0.5, of_maximum=True)
    assert asked_feature("1/2=add:-1").kind == "add"
    assert asked_head("5.3=off").low == Amount(0.0)
    assert asked_head("5.3@1:3=0.25x").low.value == 0.25
    assert positions_of("-1", 5, "") == (4, 5)
    assert positions_of("1:-1", 5, "") == (1, 4)
    assert positions_of("2:", 5, "") == (2, 5)
    assert positions_of("generated", 5, "") == (4, EVERYWHERE)

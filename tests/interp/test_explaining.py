"""Features by methods: clusters first, then the whole, whoever words it."""

from interp.descriptions.evidence import WHOLE, ActivationExample, Cluster, FeatureEvidence, described, half
from interp.descriptions.explaining import ModelExplainer, TokensExplainer, describe
from interp.descriptions.llm_questions import Answer, Answers, Prompt
from interp.descriptions.settings import RuleSettings
from interp.weightlens.settings import WordingSettings
from tasks.llm.instructions import instructions

BY_RULE = TokensExplainer(RuleSettings(), WordingSettings())


def moments(word: str, rows: range = range(2)) -> tuple[ActivationExample, ...]:
    return tuple(ActivationExample((" so", f" {word}"), 1, 1.0, (), row) for row in rows)


KNOWN = FeatureEvidence(
    reads=(" judge",), top=moments("top"), spread=moments("spread", range(4)),
    clusters=(Cluster(-1, 0.6, moments("many")), Cluster(0, 0.4, moments("court"))), effects=(" law",),
)  # fmt: skip


def test_samples_of_no_cluster_are_told_where_they_are_most() -> None:
    assert described({-1: 3, 0: 7, 1: 9}, 8) == [1, 0]
    assert described({-1: 30, 0: 7, 1: 9}, 2) == [-1, 1]
    assert described({-1: 5}, 8) == [-1]
    assert described({}, 8) == []


def test_each_cluster_is_worded_then_the_whole() -> None:
    found = describe("wl+cl", KNOWN, BY_RULE)
    assert [one.cluster for one in found] == [0, WHOLE]
    assert found[0].text == "the token ‘court’ and its forms"
    expected = "the token ‘judge’ and its forms; or the token ‘many’ and its forms; or the token ‘court’ and its forms"
    assert found[1].text == f"{expected}; promotes ‘law’"


def test_the_estimate_hears_of_questions_that_follow_from_answers() -> None:
    known: dict[str, Answer] = {}
    answers = Answers(lambda prompt: known.get(prompt.user))
    assert describe("wl+cl", KNOWN, ModelExplainer(answers, instructions(), 100)) == []
    assert [prompt.purpose for prompt in answers.missing] == ["explain", "explain"]
    (later,) = answers.later
    assert later.purpose == "join"

    def asked(prompts: list[Prompt]) -> None:
        known.update({prompt.user: Answer({"description": prompt.purpose}) for prompt in prompts})

    asked(answers.missing)
    answers = Answers(lambda prompt: known.get(prompt.user))
    describe("wl+cl", KNOWN, ModelExplainer(answers, instructions(), 100))
    (join,) = answers.missing
    assert join.purpose == "join"
    assert not answers.later
    assert abs(len(join.user) - len(later.user)) < 300
    asked([join])
    texts = [one.text for one in describe("wl+cl", KNOWN, ModelExplainer(answers, instructions(), 100))]
    assert texts == ["explain", "join"]


def test_a_half_of_what_is_known_is_of_every_other_document() -> None:
    odd = half(KNOWN, 1)
    assert [moment.document for moment in odd.spread] == [1, 3]
    assert [moment.document for moment in odd.top] == [1]
    assert [len(cluster.moments) for cluster in odd.clusters] == [1, 1]
    assert odd.reads == KNOWN.reads

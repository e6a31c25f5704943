"""Features by methods: clusters first, then the whole, whoever words it."""

from dataclasses import replace

from interp.descriptions.base_rates import BaseRates
from interp.descriptions.evidence import WHOLE, ActivationExample, Cluster, FeatureEvidence, described, half
from interp.descriptions.explaining import ModelExplainer, TokensExplainer, describe
from interp.descriptions.llm_questions import Answer, Answers, Prompt
from interp.descriptions.settings import RuleSettings
from interp.descriptions.wiring import Wire
from interp.fade.judge import Text
from interp.fade.rule import RuleJudge
from interp.weightlens.settings import WordingSettings
from tasks.llm.instructions import instructions

BY_RULE = TokensExplainer(RuleSettings(), WordingSettings())


def examples(word: str, rows: range = range(2)) -> tuple[ActivationExample, ...]:
    return tuple(ActivationExample((" so", f" {word}"), 1, 1.0, (), row) for row in rows)


KNOWN = FeatureEvidence(
    reads=(" judge",), top=examples("top"), spread=examples("spread", range(4)),
    clusters=(Cluster(-1, 0.6, examples("many")), Cluster(0, 0.4, examples("court"))), effects=(" law",),
)  # fmt: skip


def test_samples_of_no_cluster_are_told_where_they_are_most() -> None:
    assert described({-1: 3, 0: 7, 1: 9}, 8) == [1, 0]
    assert described({-1: 30, 0: 7, 1: 9}, 2) == [-1, 1]
    assert described({-1: 5}, 8) == [-1]
    assert described({}, 8) == []


def test_each_cluster_is_worded_then_the_whole() -> None:
    found = describe("wl+cl", KNOWN, BY_RULE)
    assert [one.cluster for one in found] == [0, WHOLE]
    assert found[0].text == "‘court’ and its forms."
    assert found[1].text == "‘top’; also ‘judge’, ‘many’ and ‘court’. Promotes ‘law’."


def test_a_description_says_how_often_it_is_right() -> None:
    base = BaseRates(1000, {" top": 2, " many": 100, " so": 900}, {}, {})
    known = replace(KNOWN, top=examples("top"), clusters=(Cluster(0, 1.0, examples("many", range(8))),), base=base)
    (one,) = describe("circuitlens-input", known, BY_RULE)
    assert one.text == "‘top’; also ‘many’ and its forms."
    assert [(m.kind, m.samples, m.clause, m.lift.share, m.lift.base_rate) for m in one.clauses] == [
        ("token", "strongest", "‘top’", 1, 0.002),
        ("token", "range", "‘many’", 1, 0.1),
    ]
    assert one.coverage == 1
    here = (*examples("as", range(3)), *examples("As", range(1)))
    two = (Cluster(0, 0.5, examples("as")), Cluster(1, 0.5, here))
    (whole,) = [one for one in describe("circuitlens-input", replace(known, clusters=two), BY_RULE) if one.cluster < 0]
    ranged = [(m.clause, m.lift.share) for m in whole.clauses if m.samples == "range"]
    assert ranged == [("‘as’", 1)]  # of both clusters' tokens
    words = tuple(examples(f"w{at}x")[0] for at in range(20))
    (mixed,) = describe("maxact", replace(known, top=words), BY_RULE)
    assert mixed.coverage == 6 / 20
    assert mixed.text.endswith("; 70% of its activation is on other tokens.")
    (asked,) = describe(
        "maxact", known, ModelExplainer(Answers(lambda _: Answer({"description": "d"})), instructions(), 100)
    )
    assert (asked.coverage, asked.clauses) == (None, ())


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
    assert [example.document for example in odd.spread] == [1, 3]
    assert [example.document for example in odd.top] == [1]
    assert [len(cluster.examples) for cluster in odd.clusters] == [1, 1]
    assert odd.reads == KNOWN.reads


def test_wiring_in_use_is_told_in_the_words_of_weights_and_rare_edges_with_their_tokens() -> None:
    wires = (Wire(0, 12, 1900), Wire(1, 55, 14))
    known = replace(KNOWN, reads_in_use=(" judge", " court", " judges"), wires=wires)
    (one,) = describe("weightlens+twera", known, BY_RULE)
    assert one.text == "‘judge’, ‘court’; upstream L0/12, L1/55 (seen on 14 tokens)"
    assert one.tokens == [" judge", " court", " judges"]
    assert RuleJudge().rate(one.text, [Text((" court",)), Text((" L0",))]).tolist() == [2, 0]
    assert describe("weightlens+twera", replace(known, wires=(), reads_in_use=()), BY_RULE) == []
    assert describe("weightlens+twera", replace(known, reads_in_use=()), BY_RULE) == []

"""Describe a shard's features by every method, and load the descriptions into the catalog."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import duckdb

from interp.descriptions.base_rates import Lift
from interp.descriptions.evidence import WHOLE, FeatureEvidence, Method, evidence_for
from interp.descriptions.explaining import Explainer, Measured, ModelExplainer, TokensExplainer, describe
from interp.descriptions.llm_questions import Answer, Answers, Instructions, Questions
from interp.descriptions.settings import EvidenceSettings, RuleSettings
from interp.weightlens.settings import WordingSettings
from storage.answers import AnswerStore, look_up
from storage.catalog.database import RunOf, loaded_subject, mark_loaded, open_catalog, replace_failures, replace_rows
from storage.catalog.parts import Failure, columns_of, read_parts, write_failures, write_part
from storage.catalog.runs import now
from storage.store import ShardKey, Store
from tasks.describe.draw import Draw
from tasks.describe.evidence import EvidenceJob, SampledCorpus, known_features
from tasks.describe.wiring import TABLE as INHERITED
from tasks.describe.wiring import InUse, WiringJob, in_use
from tasks.shard_task import shard_task

VERSION = 9
"""Bump when the same evidence would be described otherwise."""

SEES: dict[Method, str] = {
    "weightlens+out+llm": "tokens",
    "weightlens+twera": "wiring",
    "maxact": "samples",
    "maxact*": "samples",
    "circuitlens-input": "circuits",
    "circuitlens-full": "circuits",
    "wl+cl": "circuits",
}
"""The evidence that a method needs."""

LOOKS_AT_SAMPLES = frozenset({"samples", "circuits"})
"""The samples used by methods that describe sampled activations."""

REWORDS: frozenset[Method] = frozenset({"weightlens+out+llm"})
"""Methods whose descriptions by rule would equal those of the weightlens stage."""

TABLES = ("descriptions", "failures", "description_clauses")

PASSING = frozenset({"budget", "unreachable", "expired", "rejected"})
"""Reasons for a missing answer that may be gone in another run."""


@dataclass(frozen=True)
class DescribeJob:
    """Everything that the stage's tasks need."""

    checkpoint_id: str
    corpus_id: str
    """The corpus id in the tables, for all descriptions of this stage; those of the weightlens stage have none."""
    explainer: str
    methods: tuple[Method, ...]
    sampled_corpus: SampledCorpus | None
    evidence: EvidenceSettings
    rule: RuleSettings
    wording: WordingSettings
    instructions: Instructions
    """Instructions for the language model, by kind of question."""
    max_tokens: int
    draw: Draw
    """None: all."""
    seed: int
    wiring: WiringJob | None
    """The co-activation along which tokens were inherited; None if no method uses it."""
    left_out: str | None
    """Why no method uses it although features have weights; reported once."""
    model: str | None
    """The model under whose name answers are stored; None for the tokens explainer."""


class _Row(NamedTuple):
    """A description as a row of its table, and the rows of its clauses."""

    feature: int
    method: str
    cluster: int
    text: str
    tokens: list[str]
    coverage: float | None
    clauses: tuple[Measured, ...]


@shard_task("describe", "describe {key.name}", interpreted=True)
def describe_shard(store: Store, task: DescribeJob, key: ShardKey, unanswered: dict[str, Answer]) -> Questions:
    """Describe a shard's features. Returns the questions that have to be answered first; if there are any, nothing is
    written.

    Memory: see `known_features`, and the shard's descriptions or questions.
    """
    if is_described(store, key):
        return Questions()
    answers = None
    if task.model is not None:
        look = partial(look_up, AnswerStore(store), task.model, unanswered=unanswered)
        answers = Answers(look)
    explainer: Explainer = TokensExplainer(task.rule, task.wording)
    if answers is not None:
        explainer = ModelExplainer(answers, task.instructions, task.max_tokens)
    described: list[_Row] = []
    failed: list[Failure] = []
    with open_catalog(store.catalog) as connection:
        features = _drawn(connection, task, key)
        evidence = EvidenceJob(task.checkpoint_id, task.sampled_corpus, key.layer, task.evidence)
        everything = known_features(store, connection, evidence, features)
        used = _in_use(store, connection, task, key, features)
        for feature, known in everything:
            tokens, wires = used.get(feature, InUse())
            known = replace(known, reads_in_use=tokens, wires=wires)
            before = len(answers.problems) if answers else 0
            rows = [
                _Row(feature, method, *one) for method in task.methods for one in describe(method, known, explainer)
            ]
            described += rows
            problems = answers.problems[before:] if answers else []
            reason = _reason(task, known, {row.method for row in rows if row.cluster == WHOLE}, problems)
            failed += [Failure(feature, *reason)] if reason else []
    if answers is not None and answers.missing:
        return Questions(answers.missing, answers.later)
    _write(store, task, key, described, failed)
    return Questions()


def _in_use(
    store: Store, connection: duckdb.DuckDBPyConnection, task: DescribeJob, key: ShardKey, features: Sequence[int]
) -> dict[int, InUse]:
    if task.wiring is None:
        return {}
    wired = key._replace(recipe=task.wiring.recipe)
    return in_use(store, connection, task.wiring, wired, features, task.evidence.n_tokens)


def _drawn(connection: duckdb.DuckDBPyConnection, task: DescribeJob, key: ShardKey) -> list[int]:
    """The features of a shard that are described. A method can describe a feature if it has validated tokens, samples,
    or attributed samples, depending on the method."""
    if task.draw.is_all:
        return list(range(key.start, key.stop))
    query = """
        SELECT feature, sum(n_methods) FROM (
            SELECT DISTINCT feature, $tokens AS n_methods FROM token_candidates
            WHERE checkpoint_id = $checkpoint AND layer = $layer AND validated
            UNION ALL
            SELECT feature, $samples + $circuits * bool_or(cluster IS NOT NULL)::INTEGER FROM samples
            WHERE checkpoint_id = $checkpoint AND layer = $layer AND corpus_id = $corpus GROUP BY feature
        ) GROUP BY feature ORDER BY feature"""
    looks_at = ["tokens" if SEES[method] == "wiring" else SEES[method] for method in task.methods]
    about = {"checkpoint": task.checkpoint_id, "layer": key.layer, "corpus": task.corpus_id}
    n = {kind: looks_at.count(kind) for kind in ("tokens", "samples", "circuits")}
    rows = connection.execute(query, {**about, **n}).fetchall()
    features, n_methods = [row[0] for row in rows], [row[1] for row in rows]
    drawn = task.draw.of_layer(features, n_methods, key.layer, task.seed)
    return sorted(feature for feature in drawn if key.start <= feature < key.stop)


def is_described(store: Store, key: ShardKey) -> bool:
    """Whether a shard's parts exist and none of their questions is worth asking again."""
    paths = [store.part(table, key) for table in TABLES]
    if not all(path.exists() for path in paths):
        return False
    return not PASSING.intersection(read_parts([paths[1]], ["reason"])["reason"].to_pylist())


def forget_unanswered(store: Store, key: ShardKey) -> None:
    """Remove a shard's parts if an earlier run left questions unanswered, so that it is described again."""
    if not is_described(store, key):
        for table in TABLES:
            store.part(table, key).unlink(missing_ok=True)


def _reason(
    task: DescribeJob, known: FeatureEvidence, found: set[str], problems: Sequence[Answer]
) -> tuple[str, str] | None:
    """Why a feature lacks descriptions; temporary reasons come first, since they are worth another run."""
    for problem in sorted(problems, key=lambda answer: answer.problem not in PASSING):
        lacking = ", ".join(method for method in task.methods if method not in found) or "a cluster"
        return problem.problem or "malformed", f"{lacking}: {problem.detail}"[:500]
    offered = [method for method in task.methods if _offers(method, known)]
    if offered:
        return None
    return "no_evidence", "no validated or promoted token, and not active on the corpus"


def _offers(method: Method, known: FeatureEvidence) -> bool:
    whole, clusters = evidence_for(method, known)
    return whole.has_any or bool(clusters)


def _write(
    store: Store,
    task: DescribeJob,
    key: ShardKey,
    described: list[_Row],
    failed: list[Failure],
) -> None:
    shared = {"checkpoint_id": task.checkpoint_id, "layer": key.layer}
    columns = columns_of(_Row._fields[:-1], [row[:-1] for row in described])
    who = {"explainer": task.explainer, "corpus_id": task.corpus_id}
    created = {"created_at": [now()] * len(described)}
    write_part(store.part("descriptions", key), "descriptions", {**shared, **who, **created, **columns}, len(described))
    clauses = [(*row[:3], *one[:-1], *one.lift) for row in described for one in row.clauses]
    names = (*_Row._fields[:3], *Measured._fields[:-1], *Lift._fields)
    path = store.part("description_clauses", key)
    write_part(path, "description_clauses", {**shared, **who, **columns_of(names, clauses)}, len(clauses))
    if task.left_out is not None and (key.layer, key.start) == (0, 0):
        failed = [Failure(-1, "no_coactivation", task.left_out), *failed]
    write_failures(store.part("failures", key), "describe", key.layer, failed)


class Loaded(NamedTuple):
    """Outcome of loading."""

    is_whole: bool
    """Whether no question is left for another run."""


@shard_task("load-descriptions", "load descriptions")
def load_descriptions(store: Store, task: DescribeJob, run_id: str, keys: Sequence[ShardKey]) -> Loaded:
    """Load all parts in one transaction, replacing this explainer's earlier descriptions."""
    descriptions, failures, clauses = ([store.part(table, key) for key in keys] for table in TABLES)
    reasons = set(read_parts(failures, ["reason"])["reason"].to_pylist())
    is_whole = not reasons & PASSING
    where = {"checkpoint_id": task.checkpoint_id, "corpus_id": task.corpus_id, "explainer": task.explainer}
    with open_catalog(store.catalog, write=True) as connection:
        replace_rows(connection, "descriptions", where, descriptions)
        replace_rows(connection, "description_clauses", where, clauses)
        if task.wiring is not None:
            here = {"checkpoint_id": task.checkpoint_id, "corpus_id": task.corpus_id}
            inherited = [store.part(INHERITED, key._replace(recipe=task.wiring.recipe)) for key in keys]
            replace_rows(connection, INHERITED, here, inherited)
        replace_failures(connection, "describe", RunOf(run_id, task.checkpoint_id), failures)
        subject = loaded_subject(task.checkpoint_id, task.corpus_id)
        mark_loaded(connection, subject, loaded_name(task.explainer), keys[0].recipe if is_whole else "")
    return Loaded(is_whole)


def loaded_name(explainer: str) -> str:
    """The name of what is loaded, for the catalog's records, since descriptions of several explainers coexist."""
    return f"describe {explainer}"

"""What the columns of views mean. A column that a view takes over from a table means what it means there."""

from collections.abc import Iterator

from storage.catalog.tables import TABLES, Column

SHARED = {
    "corpus_id": "The corpus.",
    "cluster": "The mechanism; −1: of none, or the whole feature; null: not clustered.",
    "activation": "The activation.",
    "position": "The token's place in its row, from 0.",
    "sample": "Number of the sample among those of the feature.",
    "method": "The method of description; `control:…` are wrong descriptions.",
    "explainer": "Who worded the descriptions.",
    "run_id": "The run.",
    "token_id": "The token; null where it is a feature.",
    "source_layer": "The upstream feature's layer; null where it is a token.",
    "source_feature": "The upstream feature; null where it is a token.",
    "n_features": "Features that the figure is of.",
    "low": "Lower end of the 95% interval.",
    "high": "Upper end of the 95% interval.",
    "lift": "What the method has over its own descriptions shuffled among the features, on average.",
    "lift_low": "Lower end of the lift's 95% interval.",
    "lift_high": "Upper end of the lift's 95% interval.",
}
"""Columns of several views, or of tables that say it in several ways."""

OWN = {
    "contexts": {
        "document": "Number of the document in the corpus.",
        "before": "Text before the firing token, within the document.",
        "token": "The firing token, as text.",
        "after": "Text after it, within the document.",
        "tokens": "The same, token by token.",
        "activations": "The feature's activations at `tokens`; null where they were not kept.",
        "causes": "Tokens that the activation came from, the strongest first.",
        "first_position": "Place in the row of the first of `tokens`.",
    },
    "feature_card": {
        "weightlens": "The description from weights.",
        "weightlens_out": "The same with the tokens that it promotes.",
        "upstream": "The strongest upstream features by virtual weight.",
    },
    "head_features": {
        "head_layer": "Layer of the head.",
        "head": "The head, from 0.",
        "n_samples": "The feature's samples to which it is a significant contributor.",
        "rate": "Their share of the feature's attributed samples.",
        "base_rate": "The same share of all attributed samples of features in the head's layer and above.",
        "lift": "rate over base_rate.",
        "mean_score": "What it adds to the feature's pre-activation, on the mean of these samples.",
        "mean_share": "Its share of what all heads add, on the mean of these samples.",
        "usual_offset": "Where it mostly reads from, counted from the firing token: 0, −1, …",
    },
    "head_offsets": {
        "head_layer": "Layer of the head.",
        "head": "The head, from 0.",
        "offset": "Source token, counted from the firing one: 0, −1, …",
        "n": "Significant contributions from there.",
        "score": "What they add to pre-activations, together.",
        "share": "Their share of all of the head's.",
    },
    "head_reasons": {
        "head_layer": "Layer of the head.",
        "head": "The head, from 0.",
        "n": "Scores in which the pair is among those kept.",
        "mean_score": "What it adds to them, on the mean.",
        "query_offset": "Where the query's part mostly was written, counted from the token that asks.",
        "key_offset": "Where the key's part mostly was written, counted from the token that is looked at.",
        "query_token": "The query's token, as text; null where it is none.",
        "key_token": "The key's token, as text; null where it is none.",
    },
    "drift": {
        "text_a": "The description before.",
        "text_b": "The description after.",
        "agreement": "Share of the descriptions' tokens that both have.",
        "surprise": "`description changed` or `description stayed`, where that is not what the weights suggest.",
    },
    "feature_origins": {
        "first_checkpoint": "The checkpoint in which the feature appeared.",
        "first_feature": "Its number there.",
        "n_comparisons": "Comparisons through which it was followed back; 0: born here.",
        "first_name": "Name of that checkpoint.",
        "first_step": "Training step of that checkpoint.",
    },
    "relative_contributions": {
        "kind": "token or feature.",
        "contribution": "What the encoder makes of the token or the upstream feature.",
        "relative_contribution": "Its share of all that the encoder could read.",
    },
    "layer_summary": {
        "n_features": "Features of the layer.",
        "n_described": "Those with a description from weights.",
        "share_described": "Their share.",
        "n_direct_tokens": "Validated tokens that the encoder singled out itself.",
        "n_inherited_tokens": "Validated tokens that came from upstream features.",
        "n_edges": "Edges from earlier layers.",
        "loss_increase": "Rise of the model's loss with the transcoder in the MLP's place, in nats a token.",
    },
    "method_comparison": {
        "n_without_value": "Features whose figure does not exist; `scores.reason` says why.",
        "mean": "Mean over the features.",
        "coverage": "Of the features that any method has a figure of, the share that this one has.",
        "n_common": "Features of which every method has a figure.",
        "common_mean": "Mean over these.",
        "n_paired": "Features that have both a description and a shuffled one.",
        "lift_error": "Standard error of the lift.",
    },
    "method_differences": {
        "against": "The method that it is compared with.",
        "difference": "The first less the second, on average over the features that both describe.",
    },
    "judge_usefulness": {
        "n_methods": "Methods that were judged beside shuffled descriptions.",
        "is_useful": "Whether any method's lift is above zero, by an interval corrected for their number.",
        "method": "The method with the greatest lower end.",
    },
    "verdicts": {
        "verdict": "pass, fail or undecided.",
        "detection": "Balanced accuracy of picking out texts in which it is active.",
        "detection_hard": "Balanced accuracy of picking out its texts among those of look-alike features.",
        "fuzzing_hard": "Balanced accuracy of picking out its marks among those of look-alike features.",
        "weakest": "Of these three, the one with the least lower end; null where one has no value.",
        "weakest_low": "That lower end.",
        "reason": "Why one has no value.",
        "false_positive_rate": "Share of wrong descriptions by the same method that pass.",
        "false_positive_low": "Lower end of its 95% interval.",
        "false_positive_high": "Upper end of its 95% interval.",
        "n_wrong": "Wrong descriptions that were judged.",
        "wrong_kinds": "What they are: decoys, shuffled, swapped.",
    },
    "imported_pairs": {
        "imported_checkpoint_id": "The checkpoint under which what was imported stands.",
        "imported_method": "The method of the imported description.",
        "text": "Our description.",
        "imported_text": "The imported one.",
        "word_overlap": "Of the words of both descriptions, the share that both have (Jaccard).",
        "validated_overlap": "The same of validated tokens, inherited ones aside; null where one checkpoint has none.",
        "clarity": "Our description's score.",
        "responsiveness": "The same of responsiveness.",
        "purity": "The same of purity.",
        "faithfulness": "The same of faithfulness.",
        "their_clarity": "The imported description's score, as its authors judged it.",
        "their_responsiveness": "The same of responsiveness.",
        "their_purity": "The same of purity.",
        "their_faithfulness": "The same of faithfulness.",
    },
    "method_agreement": {
        "imported_checkpoint_id": "The checkpoint under which what was imported stands.",
        "imported_method": "The method of the imported description.",
        "n_features": "Features that both describe.",
        "word_overlap": "Of the words of both descriptions, the share that both have (Jaccard), on average.",
        "validated_overlap": "The same of validated tokens, inherited ones aside; null where one checkpoint has none.",
        "clarity_correlation": "Pearson's correlation of the two scores over the features that have both.",
        "responsiveness_correlation": "The same of responsiveness.",
        "purity_correlation": "The same of purity.",
        "faithfulness_correlation": "The same of faithfulness.",
        "n_scored": "Features whose clarity both have.",
    },
    "pass_rates": {
        "method": "The method of description; null for the control that says the same of all.",
        "kind": "real; `decoy: …` by the decoy's kind; shuffled, swapped, constant: wrong descriptions of real ones.",
        "n_judged": "Descriptions that were judged.",
        "n_pass": "Those that pass.",
        "n_fail": "Those that fail.",
        "n_undecided": "Those of which neither can be said.",
        "share": "Share of those that pass.",
    },
    "graph_features": {
        "batch": "The file of prompts.",
        "n_graphs": "Graphs of the set that it is in.",
        "n_prompts": "Prompts of the set.",
        "share": "Share of them in whose graphs it is.",
        "influence": "Its share of all influence on the targets, all positions together, the mean over the set.",
        "mean_activation": "The mean of its greatest activation in each of these graphs.",
        "label": "Its description.",
    },
    "recurring_edges": {
        "batch": "The file of prompts.",
        "source": "What contributes: LAYER/FEATURE, `token ID`, or `error LAYER`.",
        "target": "What it contributes to: LAYER/FEATURE, or `target`.",
        "n_graphs": "Graphs of the set that it is in.",
        "n_prompts": "Prompts of the set.",
        "share": "Share of them in whose graphs it is.",
        "mean_weight": "Mean weight in these graphs, that of positions summed up.",
        "min_weight": "The least.",
        "max_weight": "The greatest.",
        "holds_in_all": "Whether it is in all graphs of the set, always of one sign.",
    },
    "graph_contrasts": {
        "batch_a": "The first set's file of prompts.",
        "set_a": "The first set.",
        "batch_b": "The second set's file of prompts.",
        "set_b": "The second set.",
        "share_a": "Share of the first set's graphs that it is in.",
        "share_b": "The same of the second set.",
        "share_difference": "The second less the first.",
        "influence_a": "Its share of all influence on the targets, the mean over the first set.",
        "influence_b": "The same of the second set.",
        "influence_difference": "The second less the first.",
        "label": "Its description.",
    },
    "llm_spend": {
        "n_calls": "Questions that were asked.",
        "n_from_store": "Questions whose answer was there already.",
        "n_without_use": "Questions without a useful answer.",
        "mean_latency_s": "Mean seconds until an answer.",
    },
}
"""Columns of one view."""

_OF_TABLES: dict[str, set[str]] = {}
for _table in TABLES.values():
    for _column in _table.columns:
        _OF_TABLES.setdefault(_column.name, set()).add(_column.meaning)


def view_columns(view: str, described: list[tuple[str, str]]) -> Iterator[Column]:
    """The columns of a view, given their names and types, with what they mean.

    Raises:
        ValueError: nothing says what a column means, or tables say different things.
    """
    for name, type_ in described:
        meanings = _OF_TABLES.get(name, set())
        meaning = (
            OWN.get(view, {}).get(name) or SHARED.get(name) or (next(iter(meanings)) if len(meanings) == 1 else None)
        )
        if meaning is None:
            raise ValueError(f"{view}.{name}: say in storage/catalog/view_columns.py what it means")
        yield Column(name, type_, meaning)

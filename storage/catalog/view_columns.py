"""Descriptions of the columns of views. A column taken from a table has the table's description."""

from collections.abc import Iterator

from storage.catalog.tables import TABLES, Column

SHARED = {
    "corpus_id": "The corpus.",
    "cluster": "The cluster; −1: in no cluster, or the whole feature; null: not clustered.",
    "activation": "The activation.",
    "position": "The token's position in its row, from 0.",
    "sample": "Number of the sample among those of the feature.",
    "method": "The method of description; `control:…` are wrong descriptions.",
    "explainer": "The explainer of the descriptions.",
    "run_id": "The run.",
    "token_id": "The token; null for a feature.",
    "source_layer": "The upstream feature's layer; null for a token.",
    "source_feature": "The upstream feature; null for a token.",
    "n_features": "Number of features.",
    "low": "Lower end of the 95% interval.",
    "high": "Upper end of the 95% interval.",
    "lift": "The mean difference to the method's own descriptions shuffled among the features.",
    "lift_low": "Lower end of the lift's 95% interval.",
    "lift_high": "Upper end of the lift's 95% interval.",
}
"""Columns of several views, or of tables whose descriptions of it differ."""

OWN = {
    "contexts": {
        "document": "Number of the document in the corpus.",
        "before": "Text before the firing token, within the document.",
        "token": "The firing token, as text.",
        "after": "Text after it, within the document.",
        "tokens": "The text of each token of the context.",
        "activations": "The feature's activations at `tokens`; null where they were not kept.",
        "causes": "Tokens that caused the activation, the strongest first.",
        "first_position": "Position in the row of the first of `tokens`.",
    },
    "feature_card": {
        "weightlens": "The description from weights.",
        "weightlens_out": "The description from weights with the tokens that it promotes.",
        "upstream": "The strongest upstream features by virtual weight.",
    },
    "head_features": {
        "head_layer": "Layer of the head.",
        "head": "The head, from 0.",
        "n_samples": "Number of the feature's samples to which the head is a significant contributor.",
        "rate": "Their share of the feature's attributed samples.",
        "base_rate": "The same share for all attributed samples of features in the head's layer and above.",
        "lift": "rate over base_rate.",
        "mean_score": "Its contribution to the feature's pre-activation, the mean over these samples.",
        "mean_share": "Its share of the contributions of all heads, the mean over these samples.",
        "usual_offset": "Its most frequent distance from source to firing token: 0, −1, …",
    },
    "head_offsets": {
        "head_layer": "Layer of the head.",
        "head": "The head, from 0.",
        "offset": "Source token, counted from the firing one: 0, −1, …",
        "n": "Number of significant contributions at this distance.",
        "score": "Their sum.",
        "share": "Their share of all of the head's.",
    },
    "head_reasons": {
        "head_layer": "Layer of the head.",
        "head": "The head, from 0.",
        "n": "Number of scores for which the pair was stored.",
        "mean_score": "Its mean part of these scores.",
        "query_offset": "Most frequent position where the query's part was written, counted from the query's token.",
        "key_offset": "Most frequent position where the key's part was written, counted from the key's token.",
        "query_token": "The text of the query's source if it is a token; else null.",
        "key_token": "The text of the key's source if it is a token; else null.",
    },
    "drift": {
        "text_a": "The description before.",
        "text_b": "The description after.",
        "agreement": "Share of the descriptions' tokens that both have.",
        "surprise": "`description changed` or `description stayed`, if the weights suggest the opposite; else null.",
    },
    "feature_origins": {
        "first_checkpoint": "The checkpoint in which the feature appeared.",
        "first_feature": "Its number there.",
        "n_comparisons": "Number of comparisons through which it was followed back; 0: it appeared here.",
        "first_name": "Name of that checkpoint.",
        "first_step": "Training step of that checkpoint.",
    },
    "relative_contributions": {
        "kind": "token or feature.",
        "contribution": "The encoder's product with the token or the upstream feature.",
        "relative_contribution": "Its share of the contributions of all tokens and upstream features.",
    },
    "layer_summary": {
        "n_features": "Number of features in the layer.",
        "n_described": "Number of features with a description from weights.",
        "share_described": "Their share.",
        "n_direct_tokens": "Validated tokens that are outliers of the encoder itself.",
        "n_inherited_tokens": "Validated tokens inherited from upstream features.",
        "n_edges": "Edges from earlier layers.",
        "loss_increase": "Increase of the model's loss with the MLP replaced by the transcoder, in nats a token.",
    },
    "method_comparison": {
        "n_without_value": "Features without a value; `scores.reason` says why.",
        "mean": "Mean over the features.",
        "coverage": "Of the features for which any method has a value, the share for which this one has.",
        "n_common": "Features for which every method has a value.",
        "common_mean": "Mean over these.",
        "n_paired": "Features that have both a description and a shuffled one.",
        "lift_error": "Standard error of the lift.",
    },
    "method_differences": {
        "against": "The method that it is compared with.",
        "difference": "The first minus the second, on average over the features that both describe.",
    },
    "judge_usefulness": {
        "n_methods": "Methods that were judged together with shuffled descriptions.",
        "is_useful": "Whether any method's lift is above zero, by an interval corrected for their number.",
        "method": "The method with the greatest lift.",
    },
    "verdicts": {
        "verdict": "pass, fail or undecided.",
        "detection": "Balanced accuracy of recognising texts in which the feature is active.",
        "detection_hard": "Balanced accuracy of telling its texts from those of similar features.",
        "fuzzing_hard": "Balanced accuracy of telling its marked tokens from those of similar features.",
        "weakest": "The one of these three with the smallest lower end; null if one has no value.",
        "weakest_low": "That lower end.",
        "reason": "Why a score has no value.",
        "false_positive_rate": "Share of wrong descriptions by the same method that pass.",
        "false_positive_low": "Lower end of its 95% interval.",
        "false_positive_high": "Upper end of its 95% interval.",
        "n_wrong": "Wrong descriptions that were judged.",
        "wrong_kinds": "Their kinds: decoys, shuffled, swapped.",
    },
    "imported_pairs": {
        "imported_checkpoint_id": "The checkpoint with the imported results.",
        "imported_method": "The method of the imported description.",
        "text": "Our description.",
        "imported_text": "The imported description.",
        "word_overlap": "Share of the words of the two descriptions that both have (Jaccard index).",
        "validated_overlap": "The same for validated tokens, without inherited ones; null if one checkpoint has none.",
        "clarity": "Clarity of the description made here.",
        "responsiveness": "The same for responsiveness.",
        "purity": "The same for purity.",
        "faithfulness": "The same for faithfulness.",
        "their_clarity": "Clarity of the imported description, as its authors judged it.",
        "their_responsiveness": "The same for responsiveness.",
        "their_purity": "The same for purity.",
        "their_faithfulness": "The same for faithfulness.",
    },
    "method_agreement": {
        "imported_checkpoint_id": "The checkpoint with the imported results.",
        "imported_method": "The method of the imported description.",
        "n_features": "Features that both describe.",
        "word_overlap": "Share of the words of the two descriptions that both have (Jaccard index), the mean.",
        "validated_overlap": "The same for validated tokens, without inherited ones; null if one checkpoint has none.",
        "clarity_correlation": "Pearson's correlation of the two scores over the features that have both.",
        "responsiveness_correlation": "The same for responsiveness.",
        "purity_correlation": "The same for purity.",
        "faithfulness_correlation": "The same for faithfulness.",
        "n_scored": "Features for which both have a clarity score.",
    },
    "pass_rates": {
        "method": "The method of description; null for the control with the same text for all.",
        "kind": "real; `decoy: …` by the decoy's kind; shuffled, swapped, constant: wrong descriptions of real ones.",
        "n_judged": "Number of judged descriptions.",
        "n_pass": "Number that pass.",
        "n_fail": "Number that fail.",
        "n_undecided": "Number that are undecided.",
        "share": "Share that pass.",
    },
    "graph_features": {
        "batch": "The file of prompts.",
        "n_graphs": "Number of the set's graphs that it is in.",
        "n_prompts": "Number of prompts in the set.",
        "share": "Share of the prompts whose graph it is in.",
        "influence": "Its share of all influence on the targets, all positions together, the mean over the set.",
        "mean_activation": "The mean of its greatest activation in each of these graphs.",
        "label": "Its description.",
    },
    "recurring_edges": {
        "batch": "The file of prompts.",
        "source": "The source: LAYER/FEATURE, `token ID`, or `error LAYER`.",
        "target": "The target: LAYER/FEATURE, or `target`.",
        "n_graphs": "Number of the set's graphs that it is in.",
        "n_prompts": "Number of prompts in the set.",
        "share": "Share of the prompts whose graph it is in.",
        "mean_weight": "Mean weight in these graphs, summed over positions.",
        "min_weight": "The least.",
        "max_weight": "The greatest.",
        "holds_in_all": "Whether it is in all graphs of the set, with the same sign.",
    },
    "graph_contrasts": {
        "batch_a": "The first set's file of prompts.",
        "set_a": "The first set.",
        "batch_b": "The second set's file of prompts.",
        "set_b": "The second set.",
        "share_a": "Share of the first set's graphs that it is in.",
        "share_b": "The same for the second set.",
        "share_difference": "The second minus the first.",
        "influence_a": "Its share of all influence on the targets, the mean over the first set.",
        "influence_b": "The same for the second set.",
        "influence_difference": "The second minus the first.",
        "label": "Its description.",
    },
    "llm_spend": {
        "n_calls": "Questions that were asked.",
        "n_from_store": "Questions answered from the store.",
        "n_without_use": "Questions without a usable answer.",
        "mean_latency_s": "Mean seconds until an answer.",
    },
}
"""Columns of one view."""

_OF_TABLES: dict[str, set[str]] = {}
for _table in TABLES.values():
    for _column in _table.columns:
        _OF_TABLES.setdefault(_column.name, set()).add(_column.meaning)


def view_columns(view: str, described: list[tuple[str, str]]) -> Iterator[Column]:
    """The columns of a view with their descriptions, given names and types.

    Raises:
        ValueError: a column has no description, or tables give different ones.
    """
    for name, type_ in described:
        meanings = _OF_TABLES.get(name, set())
        meaning = (
            OWN.get(view, {}).get(name) or SHARED.get(name) or (next(iter(meanings)) if len(meanings) == 1 else None)
        )
        if meaning is None:
            raise ValueError(f"{view}.{name}: it needs a description in storage/catalog/view_columns.py")
        yield Column(name, type_, meaning)

"""Make rows of a catalog from the files of the authors' WeightLens (see `weightlens_json`).

The files give output tokens by text only. If a text belongs to no token, or to several, the id cannot be known. Such a
text becomes a token of its own with a negative id, so that nothing is guessed and exporting again gives the same file.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.exchange.weightlens_json import FeatureAnalysis


class TokenNames:
    """Token ids by text: those of the vocabulary if the text is unambiguous, otherwise new negative ones."""

    def __init__(self, vocabulary: Sequence[tuple[int, str]]) -> None:
        self.texts: dict[int, str] = dict(vocabulary)
        self.ids: dict[str, list[int]] = defaultdict(list)
        for token_id, text in vocabulary:
            self.ids[text].append(token_id)
        self.named: dict[tuple[str, int], int] = {}

    def see(self, token_id: int, text: str, where: str) -> None:
        """Record the text that a file gives for an id; decoders differ in blanks and in pieces of characters.

        Raises:
            ValueError: the vocabulary has no such id.
        """
        if token_id not in self.texts:
            raise ValueError(f"{where}: token id {token_id} is not in the vocabulary of {len(self.texts)}")
        if self.texts[token_id] != text:
            self.texts[token_id] = text
            self.ids[text].append(token_id)

    def id_of(self, text: str, occurrence: int) -> int:
        """The id for the `occurrence`-th appearance (from 0) of a text in one list."""
        known = self.ids.get(text, [])
        if len(known) == 1 and occurrence == 0:
            return known[0]
        return self.named.setdefault((text, occurrence), -1 - len(self.named))

    def rows(self) -> Iterator[tuple[int, str]]:
        """All tokens, including the new ones."""
        yield from self.texts.items()
        yield from ((token_id, text) for (text, _), token_id in self.named.items())


def see_tokens(features: Sequence[FeatureAnalysis], names: TokenNames, path: Path) -> None:
    """Record the texts of every id in a layer's file. All layers are read before any text is looked up."""
    for entry in features:
        of, where = entry.embedding, f"{path}: layer {entry.feature.layer} feature {entry.feature.feature_idx}"
        for ids, texts in (
            (of.top_positive_token_ids, of.top_positive_tokens),
            (of.top_negative_tokens_ids, of.top_negative_tokens),
        ):
            for token_id, text in zip(ids, texts, strict=True):
                names.see(token_id, text, where)


def catalog_rows(features: Sequence[FeatureAnalysis], names: TokenNames) -> dict[str, list[dict[str, object]]]:
    """The rows of one layer, by table, without the checkpoint's column."""
    rows: dict[str, list[dict[str, object]]] = defaultdict(list)
    for entry in features:
        layer, feature = entry.feature.layer, entry.feature.feature_idx
        here = {"layer": layer, "feature": feature}
        rows["token_candidates"] += [{**here, **row} for row in _token_rows(entry, names)]
        rows["feature_edges"] += [
            {
                "source_layer": edge.from_layer,
                "source_feature": edge.from_feature_idx,
                "target_layer": layer,
                "target_feature": feature,
                "virtual_weight": edge.contribution,
            }
            for edge in entry.feature_to_feature_contributions
        ]
        rows["contribution_totals"].append(
            {
                **here,
                "absolute_contribution": entry.total_input_invariant_contribution,
                "detected_share": entry.total_input_invariant_detected_contribution,
            }
        )
        rows["sequence_validation"].append(
            {**here, "validation": entry.validation, "validation_soft": entry.validation_soft}
        )
        for method, tokens in (("weightlens", entry.description), ("weightlens-soft", entry.description_soft)):
            if tokens is not None:
                text = ", ".join(f"‘{token}’" for token in tokens)
                rows["descriptions"].append({**here, "method": method, "text": text, "tokens": tokens})
    return rows


def _token_rows(entry: FeatureAnalysis, names: TokenNames) -> Iterator[dict[str, object]]:
    of = entry.embedding
    up = zip(of.top_positive_token_ids, of.top_positive_tokens_contribution, of.positive_tokens_activation, strict=True)
    for rank, (token_id, score, activation) in enumerate(up):
        validated = {"activation": activation, "validated": activation > 0}
        yield {"side": "input", "sign": 1, "rank": rank, "token_id": token_id, "score": score, **validated}
    down = zip(of.top_negative_tokens_ids, of.top_negative_tokens_contribution, strict=True)
    for rank, (token_id, score) in enumerate(down):
        yield {"side": "input", "sign": -1, "rank": rank, "token_id": token_id, "score": score}
    outputs = ((1, entry.output_logits.top_positive_tokens), (-1, entry.output_logits.top_negative_tokens))
    for sign, texts in outputs:
        for rank, text in enumerate(texts):
            token_id = names.id_of(text, texts[:rank].count(text))
            yield {"side": "output", "sign": sign, "rank": rank, "token_id": token_id}

"""The cost of questions to language models, before the questions are known."""

from configs.run import RunConfig
from flows.inputs.language_model import Who, endpoint_for
from tasks.llm.prices import estimate


def questions_usd(config: RunConfig, who: Who, n_questions: float, characters: float, answer_tokens: float) -> float:
    """Estimated cost in USD of this many questions; 0 if no paid server is asked.

    `characters` is the length of all questions, `answer_tokens` the limit for all answers.

    Raises:
        ValueError: the server's model is not set, or its prices are not known.
    """
    endpoint = endpoint_for(config, who)
    if endpoint is None:
        return 0.0
    above = endpoint.batch_above
    batch = endpoint.batches is not None and above is not None and n_questions > above
    return estimate(round(n_questions), characters, answer_tokens, endpoint.prices, batch=batch).usd

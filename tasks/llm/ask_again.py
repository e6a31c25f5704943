"""Texts for a model whose server does not enforce a schema."""

import json

from interp.descriptions.llm_questions import Prompt

MEND = "That is not JSON that fits the schema. Answer again, with the JSON object and nothing else."


def instructions_with_schema(prompt: Prompt) -> str:
    """The instructions of a question, with the schema of its answer."""
    return f"{prompt.system}\n\nAnswer with JSON that fits this schema and nothing else: {json.dumps(prompt.schema)}"

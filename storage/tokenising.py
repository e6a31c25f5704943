"""Run a tokenizer from outside with a time limit, since the patterns in its file may take unbounded time."""

import threading

from storage.corpora.tokens import Tokens

TRIAL_S, BATCH_S = 10.0, 600.0
"""Time limits in seconds for a few test sentences and for a batch of a corpus's documents, which normally take a
hundredth of a second and a second."""

TRIAL = (
    "The quick brown fox, it's said, jumped over 1,234.5 lazy dogs; didn't it?\n\n\tdef f(x_1: int) -> None:\n"
    f"        return {{'key': [x_1 * 2, \"…\"]}}  # naïve 名前 🙂{' ' * 60}end{chr(10) * 30}\t\t\t"
    f"{'a' * 60} {'Z' * 60} {'0' * 60} {'-' * 60} {'ab' * 30} {'.' * 60}!\r\n"
)
"""Words, numbers, code, other scripts, and runs of similar characters, on which bad patterns take very long."""


def token_ids(tokenizer: Tokens, texts: list[str], within_s: float = BATCH_S) -> list[list[int]]:
    """The ids of each text, without special tokens.

    They are computed in a thread, since a pattern that tries every way to match cannot be stopped; a thread that
    exceeds the limit is abandoned.

    Raises:
        ValueError: the tokenizer raises an error, or exceeds the time limit.
    """
    found: list[list[list[int]]] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            found.append(tokenizer(texts, add_special_tokens=False)["input_ids"])
        except BaseException as error:  # errors of Rust libraries are not of class Exception
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(within_s)
    if found:
        return found[0]
    what = f"the tokenizer of {str(getattr(tokenizer, 'name_or_path', ''))[:200]}: {sum(map(len, texts))} characters"
    if errors and type(errors[0]) is ValueError:
        raise errors[0]
    if errors:
        raise ValueError(f"{what} cannot be read ({' '.join(str(errors[0]).split())[:300]})")
    raise ValueError(
        f"{what} take more than {within_s:g} s; does tokenizer.json have a pattern that tries every way to match?"
    )

"""Have a tokenizer from outside read texts, and not for ever: its patterns come from its file, as they like."""

import threading

from storage.corpora.tokens import Tokens

TRIAL_S, BATCH_S = 10.0, 600.0
"""How long the trial's few sentences and a batch of a corpus's documents may take. They take a hundredth of a second
and a second."""

TRIAL = (
    "The quick brown fox, it's said, jumped over 1,234.5 lazy dogs; didn't it?\n\n\tdef f(x_1: int) -> None:\n"
    f"        return {{'key': [x_1 * 2, \"…\"]}}  # naïve 名前 🙂{' ' * 60}end{chr(10) * 30}\t\t\t"
    f"{'a' * 60} {'Z' * 60} {'0' * 60} {'-' * 60} {'ab' * 30} {'.' * 60}!\r\n"
)
"""Words, numbers, code, other scripts, and runs of like characters, on which bad patterns take for ever."""


def token_ids(tokenizer: Tokens, texts: list[str], within_s: float = BATCH_S) -> list[list[int]]:
    """The ids of each text, without special tokens.

    It is done in a thread, since nothing stops a pattern that tries every way to match; the thread is left to itself
    when it is late.

    Raises:
        ValueError: the tokenizer gives up, with whatever error, or is not done in time.
    """
    found: list[list[list[int]]] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            found.append(tokenizer(texts, add_special_tokens=False)["input_ids"])
        except BaseException as error:  # those of Rust are no Exception
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
        f"{what} take more than {within_s:g} s; is there a pattern in tokenizer.json that tries every way to match?"
    )

"""The interface to a server of language models: it answers a question, may accept batches, and fails in four ways."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from interp.descriptions.llm_questions import Prompt
from interp.descriptions.settings import Prices
from tasks.llm.rate_limits import Room


class Usage(NamedTuple):
    """Tokens of one answer, as the server counts them."""

    input: int
    output: int
    cache_write: int = 0
    cache_read: int = 0


class Reply(NamedTuple):
    """The server's reply to one question."""

    reply_id: str
    text: str
    problem: Literal["refusal", "truncated"] | None
    usage: Usage | None
    """None if the server's numbers are not credible; the question is then counted at its worst case."""
    room: Room | None = None
    """The server's remaining rate limit."""


class BatchResult(NamedTuple):
    """The result of one question of a batch."""

    custom_id: str
    reply: Reply | None
    problem: Literal["rejected", "unreachable", "expired"] | None = None
    detail: str = ""


class Question(NamedTuple):
    """One question as it is sent."""

    prompt: Prompt
    room: int
    """Largest number of tokens of the answer."""
    misfit: str | None = None
    """An earlier answer that did not fit the schema; it is sent along, and the model is asked to correct it."""

    @property
    def most_input_tokens(self) -> int:
        """An upper bound: a token has at least a byte, and the provider's own tokens are allowed for."""
        prompt = self.prompt
        return len((prompt.system + prompt.user + (self.misfit or "")).encode()) + 2 * len(str(prompt.schema)) + 600


class NotSentError(Exception):
    """The question was not sent: nothing was charged."""


class BusyError(Exception):
    """The server declined for now and charged nothing; it may say for how many seconds."""

    def __init__(self, detail: str, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class RejectedError(Exception):
    """The server will not answer this question, and charged nothing."""


class OutcomeUnknownError(Exception):
    """The connection or the server failed after the question was sent: it may have been answered and charged."""


class Batches(Protocol):
    """A server's batch endpoint."""

    def create(self, name: str, questions: dict[str, Question]) -> str:
        """Send questions by their custom ids, under a name chosen here; returns the server's id of the batch."""
        ...

    def candidates(self, name: str, n_questions: int, since: datetime, known: frozenset[str]) -> list[str]:
        """Ids of batches that may be the one created under this name since then; `known` are other batches."""
        ...

    def seconds_taken(self, batch_id: str) -> float | None:
        """How long the batch took, in seconds; None while it is not finished."""
        ...

    def results(self, batch_id: str, questions: dict[str, Question]) -> Iterator[BatchResult]:
        """The results of its questions. `questions` are the known ones, for the bounds of their usage."""
        ...


class Endpoint(Protocol):
    """A language model behind an address. All methods but `check` raise the errors above, and ValueError for a key that
    is not accepted."""

    @property
    def model(self) -> str:
        """The name under which answers are stored."""
        ...

    @property
    def prices(self) -> Prices:
        """The model's prices."""
        ...

    @property
    def batch_above(self) -> int | None:
        """More questions than this go as a batch; None: never."""
        ...

    @property
    def repairs(self) -> bool:
        """Whether an answer that does not fit is sent back to the model for correction."""
        ...

    @property
    def batches(self) -> Batches | None:
        """The server's batch endpoint."""
        ...

    def check_key(self) -> None:
        """Check that there is a key, if one is needed.

        Raises:
            ValueError: there is none; the message names the environment variable.
        """
        ...

    def check(self) -> None:
        """Check key, address and model on the server, free of charge.

        Raises:
            ValueError: one of them is wrong; the message names the setting.
        """
        ...

    def count(self, prompts: Sequence[Prompt]) -> int | None:
        """The server's own count of the tokens of some questions; None if it has none."""
        ...

    def send(self, question: Question) -> Reply:
        """Ask one question and wait for the answer."""
        ...

    def note_misfit(self) -> None:
        """Called when an answer did not fit its schema although the server had been asked to enforce it."""
        ...


def cost_usd(usage: Usage, prices: Prices, *, batch: bool) -> float:
    """The cost of an answer in USD."""
    write = prices.input if prices.cache_write is None else prices.cache_write
    read = prices.input if prices.cache_read is None else prices.cache_read
    full = usage.input * prices.input + usage.output * prices.output + usage.cache_write * write
    return (full + usage.cache_read * read) / 1e6 * (prices.batch if batch else 1.0)


def worst_case_usd(question: Question, prices: Prices, *, batch: bool) -> float:
    """The greatest cost of an answer in USD."""
    most = max(prices.input, prices.cache_write or 0.0, prices.cache_read or 0.0)
    usd = (question.most_input_tokens * most + question.room * prices.output) / 1e6
    return usd * (prices.batch if batch else 1.0)


def credible(usage: Usage | None, question: Question | None) -> bool:
    """Whether these numbers of tokens are possible; `question` is None if it is no longer known."""
    if usage is None or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in usage):
        return False
    if question is None:
        return True
    read = usage.input + usage.cache_write + usage.cache_read
    return read <= question.most_input_tokens and usage.output <= question.room

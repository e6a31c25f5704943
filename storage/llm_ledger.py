"""The ledger of money reserved and spent on language models, written before a question is sent.

    answers/ledger/<run_id>.jsonl    a line for each reservation and each settlement; lines are only appended

A reservation is on disk before its question leaves this machine. It is settled with the cost of the answer, or with
zero if the question certainly cost nothing. A reservation that is never settled, because a process died or an answer
was lost, stays reserved: the provider may have charged for it. So the amount charged is never more than what is spent
and reserved together.
"""

import json
import os
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from storage.store import Store


class Spending(NamedTuple):
    """Money in USD."""

    recorded: float
    """The cost of answers, as far as it is known."""
    set_aside: float
    """For questions whose outcome is not known, or not known yet."""

    @property
    def total(self) -> float:
        """US dollars that are spent, or set aside for requests under way."""
        return self.recorded + self.set_aside


class Limits(NamedTuple):
    """Limits in USD; None: no limit of that kind."""

    run: float
    store: float | None = None
    month: float | None = None
    """For a calendar month (UTC), by all runs on the store."""


@dataclass
class Reservation:
    """The amount reserved for one question or one batch, and what it finally cost."""

    run_id: str
    month: str
    set_aside: float
    settled: float | None = None

    def sums(self) -> tuple[str, str, str]:
        """The totals that it is part of: of the store, of its run, of its month."""
        return ("store", f"run {self.run_id}", f"month {self.month}")


class Ledger:
    """The ledger of a store, as one run reads and continues it. Thread-safe.

    One run at a time locks a store, so no other process appends meanwhile.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.run_id = run_id
        self.folder = store.root / "answers" / "ledger"
        self._lock = threading.Lock()
        self._entries: dict[str, Reservation] = {}
        self._sums: defaultdict[str, Spending] = defaultdict(lambda: Spending(0.0, 0.0))
        lines = [line for path in sorted(self.folder.glob("*.jsonl")) for line in _lines(path)]
        for line in lines:
            if "set_aside_usd" in line:
                at, usd = str(line["at"]), float(line["set_aside_usd"])
                self._entries[str(line["id"])] = Reservation(str(line["run_id"]), at[:7], usd)
        for line in lines:  # a settlement may be in another run's file than its reservation
            if "usd" in line and str(line["id"]) in self._entries:
                self._entries[str(line["id"])].settled = float(line["usd"])
        for entry in self._entries.values():
            self._count(entry, 1)

    def _count(self, entry: Reservation, sign: int) -> None:
        recorded, set_aside = (0.0, entry.set_aside) if entry.settled is None else (entry.settled, 0.0)
        for name in entry.sums():
            before = self._sums[name]
            self._sums[name] = Spending(before.recorded + sign * recorded, before.set_aside + sign * set_aside)

    @property
    def of_run(self) -> Spending:
        """What this run spent and reserved."""
        return self._sums[f"run {self.run_id}"]

    @property
    def of_store(self) -> Spending:
        """What all runs on the store spent and reserved."""
        return self._sums["store"]

    def reserve(self, usd: float, limits: Limits, name: str | None = None) -> str | None:
        """Reserve the greatest amount that a question may cost. The reservation is on disk when this returns.

        Returns:
            The reservation's name, or None if a limit leaves no room for it.
        """
        now = datetime.now(UTC).isoformat()
        name = name or uuid.uuid4().hex
        with self._lock:
            if self._limit_reached(usd, limits, now[:7]) is not None:
                return None
            self._append({"id": name, "run_id": self.run_id, "at": now, "set_aside_usd": usd})
            self._entries[name] = entry = Reservation(self.run_id, now[:7], usd)
            self._count(entry, 1)
        return name

    def settle(self, name: str, usd: float) -> None:
        """Replace a reserved amount by the actual cost; 0 if it certainly cost nothing."""
        with self._lock:
            self._append({"id": name, "usd": usd})
            entry = self._entries[name]
            self._count(entry, -1)
            entry.settled = usd
            self._count(entry, 1)

    def is_open(self, name: str) -> bool:
        """Whether an amount is reserved under this name."""
        entry = self._entries.get(name)
        return entry is not None and entry.settled is None

    def set_aside(self, name: str) -> float:
        """The amount that is, or was, reserved under this name, in USD; 0 if there never was one."""
        entry = self._entries.get(name)
        return 0.0 if entry is None else entry.set_aside

    def limit_reached(self, usd: float, limits: Limits) -> str | None:
        """The limit that leaves no room for an amount, as a sentence; None if there is room."""
        with self._lock:
            return self._limit_reached(usd, limits, datetime.now(UTC).isoformat()[:7])

    def room(self, limits: Limits) -> float:
        """The amount that can still be reserved, in USD."""
        with self._lock:
            of = self._limits(limits, datetime.now(UTC).isoformat()[:7])
            return min(limit - self._sums[name].total for _, limit, name in of if limit is not None)

    def _limits(self, limits: Limits, month: str) -> tuple[tuple[str, float | None, str], ...]:
        return (
            ("llm.budget_usd", limits.run, f"run {self.run_id}"),
            ("llm.store_budget_usd", limits.store, "store"),
            ("llm.month_budget_usd", limits.month, f"month {month}"),
        )

    def _limit_reached(self, usd: float, limits: Limits, month: str) -> str | None:
        for setting, limit, name in self._limits(limits, month):
            spending = self._sums[name]
            if limit is not None and spending.total + usd > limit + 1e-9:
                return (
                    f"{setting} is ${limit:.2f}; ${spending.recorded:.4f} recorded and ${spending.set_aside:.4f} "
                    f"set aside leave no room for ${usd:.4f}"
                )
        return None

    def _append(self, line: dict[str, str | float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.run_id}.jsonl").open("ab") as file:
            file.write(b"\n" + json.dumps(line).encode() + b"\n")  # the first ends an unfinished line
            file.flush()
            os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[dict[str, str | float]]:
    """The complete lines of a ledger file. An incomplete one had no effect: its question was not sent.

    Raises:
        ValueError: a complete line is not an entry; the message names file and line.
    """
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
            known = isinstance(line, dict) and ({"id", "usd"} <= line.keys() or {"id", "set_aside_usd"} <= line.keys())
        except ValueError:
            known, line = False, None
        if known and line is not None:
            yield line
        elif raw.count(b"{") == 1 and not raw.endswith(b"}"):
            continue  # cut off by the end of its process
        else:
            raise ValueError(
                f"{path}, line {number}: expected an entry of the spending ledger, found {raw[:60]!r}; "
                "budgets cannot be enforced without it. Restore the file, or remove it to forget the amounts in it"
            )

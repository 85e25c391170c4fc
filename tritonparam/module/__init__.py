"""Any torch model: `deferred_init` runs its constructor without memory, `materialize` gives it its values.

In between, a tape keeps what was done to every tensor. What of it is a law is recognized and written by a plan; the
rest is replayed. Files that hold a model's values are for `checkpoint`.
"""

from __future__ import annotations

from tritonparam._lazy import public_names
from tritonparam.module.declaration import BoxLaw, Declaration, check_written, declarations, declared, surveyed
from tritonparam.module.making import Facts, agreed, fact, facts_of, held_of
from tritonparam.module.materialization import Materialization, materialize, shown_by
from tritonparam.module.recording import DeferredWarning, deferred_init, recording_paused, unguard
from tritonparam.module.source import Elements, Source
from tritonparam.module.state_ledger import KeptWarning, Ledger, LedgerRow, ledger, note_loaded, note_made, why_replayed
from tritonparam.module.tape import History
from tritonparam.module.wrapping import param_init_fn

__all__ = [
    "BoxLaw",
    "Declaration",
    "DeferredWarning",
    "Elements",
    "Facts",
    "History",
    "KeptWarning",
    "Ledger",
    "LedgerRow",
    "Materialization",
    "Source",
    "agreed",
    "check_written",
    "declarations",
    "declared",
    "deferred_init",
    "fact",
    "facts_of",
    "held_of",
    "ledger",
    "materialize",
    "note_loaded",
    "note_made",
    "param_init_fn",
    "recording_paused",
    "shown_by",
    "surveyed",
    "unguard",
    "why_replayed",
]

__dir__ = public_names(__name__)

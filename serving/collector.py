"""Python's garbage collector as a process wants it that serves many turns at once.

Requests and agents make little garbage in cycles, and much that lives for as long as its turn.
Looking through all of that after each 700 new objects, as Python does by itself, finds nothing: it
took a fifth of the CPU of a thousand agents, and showed as pauses of more than 0.1 s.
"""

from __future__ import annotations

import gc

NEW_OBJECTS = 20_000
"""More of them than were let go of, and the collector looks at what is new."""


def settle() -> None:
    """Once, when all is imported and built: that stays for good, and is not walked any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)

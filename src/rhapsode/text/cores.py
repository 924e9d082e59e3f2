"""How many threads are worth starting."""

import os


def num_cores() -> int:
    """Return the cores this process may use, or where the system cannot tell, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""The last calibration of each space, kept in a file, so that a fresh process answers its first question at once.

The file holds numbers and hashes only, nothing of what was taught. An entry is good for one state of the store (the
number of its last change and its rows), one encoder, one version of this package and one set of settings; otherwise the
calibration is measured again.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rhapsode.answering.calibration import Calibration, calibrate
from rhapsode.answering.confidence import SHIPPED
from rhapsode.answering.config import AskConfig
from rhapsode.answering.contracts import Memories
from rhapsode.errors import StateError
from rhapsode.runfolder import read_json, write_json


def calibrate_with_file(
    store: Memories, path: Path, encoder: str, space: str, config: AskConfig, *, read_only: bool = False
) -> Calibration:
    """Return what `calibrate` returns, from `path` where that is still good, and put it there otherwise.

    Args:
        path: a file in the store's folder; made when it is missing.
        encoder: fingerprint of the encoder that the store searches with.
        read_only: read the file, and do not write it.
    """
    settings = (config.error_rate, config.num_negatives, config.candidates)
    name = _hash(version("rhapsode"), space, encoder, *settings, SHIPPED.read_text())
    state = [store.seq, store.count(space)]
    kept = _read(path)
    entry = kept.get(name)
    if entry is not None and entry["state"] == state:
        return Calibration(**entry["calibration"])
    found = calibrate(store, space, config)
    # a change meanwhile would file the calibration under the wrong state.
    if not read_only and [store.seq, store.count(space)] == state:
        # the answer does not depend on the file: a full disk must not take it away.
        with suppress(StateError):
            write_json(path, {**kept, name: {"state": state, "calibration": asdict(found)}})
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        kept = read_json(path)
        # built once to see that it is whole.
        return {name: entry for name, entry in kept.items() if Calibration(**entry["calibration"]) and entry["state"]}
    except (StateError, TypeError, KeyError):
        # half a file is as good as none: it is measured again and written whole.
        return {}


def _hash(*parts: object) -> str:
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

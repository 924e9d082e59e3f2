"""The drafter of a run, from the training text that the run keeps."""

import numpy as np

from rhapsode.generation.drafting.config import PhaseConfig
from rhapsode.generation.drafting.drafter import Drafter
from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array


def load_drafter(folder: RunFolder, phases: PhaseConfig | None = None) -> Drafter:
    """Index the training text of a run; a run that was written without it drafts from prompts and outputs only.

    Cost: about 0.6 s for a million ids, and for longer texts as for a million.

    Raises:
        StateError: if the kept text is damaged.
    """
    training = folder.data / "training"
    if not training.exists():
        return Drafter(phases=phases)
    return Drafter(np.asarray(load_token_array(training).ids), phases)

"""Any encoder from its folder."""

from pathlib import Path

from rhapsode.memory.contracts import Encoder
from rhapsode.memory.encoders.config import ENCODERS
from rhapsode.memory.encoders.files import read_header
from rhapsode.registry import Registry


def load_encoder(folder: str | Path, registry: Registry = ENCODERS) -> Encoder:
    """Read the encoder in `folder`, of whatever kind it is.

    Args:
        folder: as `save` wrote it, such as RUN/encoder.
        registry: the kinds to choose from.

    Raises:
        UserError: if there is none, its kind is unknown, or it cannot be loaded from a folder.
        StateError: if it is damaged or written by a newer version.
    """
    folder = Path(folder)
    kind = str(read_header(folder).get("kind"))
    encoder: Encoder = registry.load(registry.check(kind, f"the encoder in {folder}")).load(folder)
    return encoder

"""A sentence-transformers model from a local folder. The package is optional, and it brings torch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from rhapsode.errors import UserError
from rhapsode.memory.encoders.files import read_header, write_header
from rhapsode.memory.encoders.rows import unit_rows
from rhapsode.runfolder import hash_file

# weights, tokenizer and settings; pictures and model cards do not change a vector.
_HASHED = (".json", ".safetensors", ".bin", ".txt", ".model")


class SentenceTransformersEncoder:
    """Encodes with a model that is already on this machine; nothing is downloaded.

    Reimers and Gurevych 2019, arXiv:1908.10084.
    """

    kind = "sentence-transformers"

    def __init__(self, folder: str | Path) -> None:
        """Load the model; seconds, and as much memory as its weights.

        Raises:
            UserError: if there is no such folder, it is no model, or the package is missing.
        """
        self.folder = Path(folder).resolve()
        if not (self.folder / "modules.json").is_file():
            raise UserError(
                f"the encoder must be a folder that sentence-transformers saved, with modules.json; got {folder}. "
                "Save one there with SentenceTransformer(...).save(folder)."
            )
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                "the encoder sentence-transformers must have its package. "
                "Install it with: pip install 'rhapsode[sentence-transformers]'"
            ) from None
        self._model = SentenceTransformer(str(self.folder), local_files_only=True)
        self.fingerprint = _hash_folder(self.folder)
        self.width = self._encode_raw(["a"]).shape[1]

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
        """Return a unit vector for each text; zeros for blank text."""
        rows = np.zeros((len(texts), self.width), dtype=np.float32)
        filled = [i for i, text in enumerate(texts) if text.strip()]
        if filled:
            rows[filled] = self._encode_raw([texts[i] for i in filled])
        return rows

    def save(self, folder: str | Path) -> None:
        """Write where the model is and its fingerprint; the model itself is not copied."""
        write_header(Path(folder), self, {"folder": str(self.folder)})

    @classmethod
    def load(cls, folder: str | Path) -> "SentenceTransformersEncoder":
        """Read what `save` wrote.

        Raises:
            UserError: if the model is not where it was, or has changed since.
        """
        header = read_header(Path(folder), cls.kind)
        encoder = cls(str(header.get("folder")))
        if encoder.fingerprint != header.get("fingerprint"):
            raise UserError(
                f"the encoder in {encoder.folder} must be the one the memory was written with; its files changed. "
                f"Restore them, or encode again with: rhapsode memory RUN rebuild --encoder {encoder.folder}"
            )
        return encoder

    def _encode_raw(self, texts: Sequence[str]) -> np.ndarray:
        made = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return unit_rows(made, len(texts), None, self.kind)


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _HASHED):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{hash_file(path)}\n".encode())
    return digest.hexdigest()

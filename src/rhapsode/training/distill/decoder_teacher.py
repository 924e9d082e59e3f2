"""A run of ours as a teacher: forward hooks on the decoder's parts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from rhapsode.config import build_config, read_toml
from rhapsode.errors import UserError
from rhapsode.models.decoder import Decoder
from rhapsode.nn.attention import Attention
from rhapsode.ops.rotary import rotary_angles
from rhapsode.runfolder import RunFolder, hash_file, read_json
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer
from rhapsode.training.checkpoint import load_weights
from rhapsode.training.config import Recipe
from rhapsode.training.distill.teacher import Reading, listening, stream_widths
from rhapsode.training.hardware import resolve_device


class DecoderTeacher:
    """See `Teacher`. It computes in float32.

    Streams: `embeddings`, what the embedder gives; `hidden`, the residual stream after each layer and the vector that
    the head reads; `qkv`, queries, keys and values of each layer before rotation; `phases`, cosines and sines of the
    rotary angles, which with them give the rotated ones.
    """

    kind = "run"

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, fingerprint: str, path: str, isolate: bool) -> None:
        """Use `load`; this stores its parts and asks a window of two ids how wide the streams are."""
        self.path = path
        self.fingerprint = fingerprint
        self.tokenizer = tokenizer
        self.context = decoder.config.seq_len
        self._decoder = decoder
        self._isolate = isolate
        device = next(decoder.parameters()).device
        probe = self.read(torch.zeros(1, 2, dtype=torch.int64, device=device))
        self.widths = stream_widths(probe)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> "DecoderTeacher":
        """Load a run.

        Raises:
            UserError: if the run is no decoder.
            StateError: if it is damaged.
        """
        folder = RunFolder(path).open()
        header = read_json(folder.run)
        if header.get("kind", "decoder") != "decoder":
            raise UserError(f"TEACHER must be a run of rhapsode train; got {path}, which was distilled itself.")
        recipe = build_config(Recipe, read_toml(folder.recipe))
        tokenizer = load_tokenizer(folder.tokenizer)
        decoder = Decoder(recipe.model)
        load_weights(folder.model, decoder, header.get("weights_sha256"))
        decoder.to(resolve_device(device)).requires_grad_(False)
        decoder.compute_dtype = torch.float32
        # the weights do not say what is computed with them: the settings belong to what a teacher is.
        made_of = [hash_file(folder.model), recipe.model.model_dump_json(), tokenizer.fingerprint]
        fingerprint = hashlib.sha256("\n".join(made_of).encode()).hexdigest()
        return cls(decoder, tokenizer, fingerprint, str(path), recipe.training.isolate_documents)

    @torch.inference_mode()
    def read(self, ids: Int[Tensor, "B T"]) -> Reading:
        """Read windows of up to `context` ids. Cost: one forward pass."""
        ids = ids.to(next(self._decoder.parameters()).device)
        segments = (ids == self.tokenizer.bos_id).cumsum(dim=1) if self._isolate else None
        with listening(_parts(self._decoder)) as seen:
            hidden, _ = self._decoder.hidden(ids, segments=segments)
        seen["hidden"].append(hidden)
        streams = {name: torch.cat(parts, dim=-1).float() for name, parts in seen.items()}
        phases = self._phases(ids)
        if phases is not None:
            streams["phases"] = phases
        return Reading(streams, torch.log_softmax(self._decoder.logits(hidden), dim=-1))

    def _phases(self, ids: Tensor) -> Tensor | None:
        """Return cosines and sines at each position of the window, (B, T, K), if a layer rotates."""
        for block in self._decoder.blocks:
            mixer = block.mixer
            if isinstance(mixer, Attention) and mixer.rotary_base is not None:
                positions = torch.arange(ids.shape[1], device=ids.device)
                angles = torch.cat(rotary_angles(positions, mixer.head_dim, mixer.rotary_base), dim=-1)
                return angles.expand(ids.shape[0], -1, -1)
        return None


def _parts(decoder: Decoder) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules that are listened to, and their streams."""
    yield decoder.embedder, "embeddings"
    for block in decoder.blocks:
        yield block, "hidden"
        qkv = getattr(block.mixer, "qkv", None)
        if isinstance(qkv, nn.Module):
            yield qkv, "qkv"

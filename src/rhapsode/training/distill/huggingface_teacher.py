"""A local folder of a Hugging Face causal language model as a teacher. Needs the package transformers."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import hash_file
from rhapsode.text.huggingface_tokenizer import HuggingFaceTokenizer
from rhapsode.training.distill.teacher import Reading, listening, stream_widths
from rhapsode.training.hardware import resolve_device

# projections of queries, keys and values, by the names that the architectures give them.
_QKV = re.compile(r"\.(q_proj|k_proj|v_proj|qkv_proj|c_attn|query_key_value|Wqkv)$")
_ROTARY = re.compile(r"(^|\.)rotary_emb$")
# a teacher that can look further is still read in windows of this length.
MAX_CONTEXT = 1024


class HuggingFaceTeacher:
    """See `Teacher`. It computes in float32.

    Streams as `DecoderTeacher` has them; `qkv` and `phases` only where modules of the usual names compute them.
    """

    kind = "huggingface"

    def __init__(self, model: Any, tokenizer: HuggingFaceTokenizer, fingerprint: str, path: str) -> None:
        """Use `load`; this stores its parts and asks a window of two ids how wide the streams are.

        Raises:
            StateError: if the tokenizer has ids that the model has no logits for.
        """
        self.path = path
        self.fingerprint = fingerprint
        self.tokenizer = tokenizer
        self.context = min(MAX_CONTEXT, int(getattr(model.config, "max_position_embeddings", MAX_CONTEXT)))
        self._model = model
        probe = self.read(torch.zeros(1, 2, dtype=torch.int64, device=model.device))
        if probe.log_probs.shape[-1] < tokenizer.vocab_size:
            raise StateError(
                f"{path} must have logits for all ids of its tokenizer; got {probe.log_probs.shape[-1]} for "
                f"{tokenizer.vocab_size}. Restore the folder."
            )
        self.widths = stream_widths(probe)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> "HuggingFaceTeacher":
        """Load config.json, safetensors weights and tokenizer.json; nothing is fetched.

        Raises:
            UserError: if transformers is not installed, or the folder holds no such model.
            StateError: if its files are damaged.
        """
        try:
            from transformers import AutoModelForCausalLM
        except ImportError:
            raise UserError(
                "TEACHER must be a run where transformers is not installed. Install it with: "
                "pip install 'rhapsode[huggingface]'"
            ) from None
        folder = Path(path)
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UserError(f"TEACHER must have its weights as safetensors; got {folder}, which has none. Convert it.")
        tokenizer = HuggingFaceTokenizer.from_file(folder / "tokenizer.json")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise StateError(f"{folder} must hold a causal language model that can be loaded; got: {reason}.") from None
        # a loaded model is in evaluation mode already.
        model.requires_grad_(False).to(resolve_device(device))
        made_of = [hash_file(file) for file in [folder / "config.json", *weights]] + [tokenizer.fingerprint]
        fingerprint = hashlib.sha256("\n".join(made_of).encode()).hexdigest()
        return cls(model, tokenizer, fingerprint, str(path))

    @torch.inference_mode()
    def read(self, ids: Int[Tensor, "B T"]) -> Reading:
        """Read windows of up to `context` ids. Cost: one forward pass."""
        ids = ids.to(self._model.device)
        with listening(_parts(self._model)) as seen:
            output = self._model(input_ids=ids, use_cache=False, output_hidden_states=True)
        seen["hidden"] = list(output.hidden_states[1:])
        streams = {name: torch.cat(parts, dim=-1).float() for name, parts in seen.items()}
        if "phases" in streams:
            streams["phases"] = streams["phases"].expand(ids.shape[0], -1, -1)
        # some models have more logits than the tokenizer has ids.
        logits = output.logits[..., : self.tokenizer.vocab_size].float()
        return Reading(streams, torch.log_softmax(logits, dim=-1))


def _parts(model: Any) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules that are listened to, and their streams."""
    yield model.get_input_embeddings(), "embeddings"
    for name, module in model.named_modules():
        if _QKV.search(name):
            yield module, "qkv"
        elif _ROTARY.search(name) and "layers" not in name:
            yield module, "phases"

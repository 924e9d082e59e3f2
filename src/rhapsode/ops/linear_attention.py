"""Gated linear attention: a state that decays per key and takes up one outer product a position.

S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,   y_t = S_t^T q_t   (Yang et al. 2023, arXiv 2312.06635)

`gated_linear_attention_plain` is that recurrence, one position at a time. `gated_linear_attention` is the same in
chunks of matrix products. Shape letters: B batch, H heads, T positions, N chunks, P positions in a chunk, K key size,
V value size.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# inside a chunk, products of decays are quotients of exponentials taken from the chunk's beginning on: with at most 16
# steps of at least exp(-4) each, the larger of the two stays below exp(64), and float32 reaches exp(88).
CHUNK_SIZE = 16
MIN_LOG_DECAY = -4.0
# chunks that are handled at once; what passes between them costs their number squared.
CHUNKS_AT_ONCE = 16


def gated_linear_attention_plain(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    log_decay: Float[Tensor, "B H T K"],
    memory: Float[Tensor, "B H K V"],
    segments: Int[Tensor, "B T"] | None = None,
    memory_segments: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """The recurrence as it stands in the paper. Arguments and results as `gated_linear_attention`."""
    outputs = []
    for t in range(q.shape[2]):
        if segments is not None and memory_segments is not None:
            goes_on = segments[:, t] == memory_segments
            memory = memory.masked_fill(~goes_on[:, None, None, None], 0.0)
            memory_segments = segments[:, t]
        memory = log_decay[:, :, t, :, None].exp() * memory + k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((q[:, :, t, None, :] @ memory).squeeze(2))
    return torch.stack(outputs, dim=2), memory


def gated_linear_attention(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    log_decay: Float[Tensor, "B H T K"],
    memory: Float[Tensor, "B H K V"],
    segments: Int[Tensor, "B T"] | None = None,
    memory_segments: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """Return the outputs of T positions and the memory after them. Costs O(B H T K (P + V)), in float32.

    Causal to the last bit: what stands later in a call changes no rounding of what stands earlier.

    Args:
        log_decay: of each key at each position, from `MIN_LOG_DECAY` to 0.
        memory: after the positions before these; zeros at the beginning.
        segments: document numbers; a document sees nothing of another.
        memory_segments: the document that `memory` belongs to; with `segments` only.
    """
    if q.shape[2] == 1:
        return gated_linear_attention_plain(q, k, v, log_decay, memory, segments, memory_segments)
    size = CHUNK_SIZE * CHUNKS_AT_ONCE
    outputs = []
    for start in range(0, q.shape[2], size):
        part = slice(start, start + size)
        numbers = None if segments is None else segments[:, part]
        y, memory = _block(
            q[:, :, part], k[:, :, part], v[:, :, part], log_decay[:, :, part], memory, numbers, memory_segments
        )
        outputs.append(y)
        memory_segments = None if numbers is None else numbers[:, -1]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), memory


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    memory: Tensor,
    segments: Tensor | None,
    memory_segments: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """At most CHUNKS_AT_ONCE chunks, all at once."""
    length = q.shape[2]
    padding = -length % CHUNK_SIZE
    # a padded position decays nothing and writes nothing.
    q, k, v, log_decay = (_chunks(x, padding) for x in (q, k, v, log_decay))
    within, between, reads, writes = _visible(segments, memory_segments, q.shape[2], padding, q)
    # log of what is left since the beginning of the chunk, or of the document in it: (B, H, N, P, K). A product with
    # the mask, since a running sum would carry the roundings of one document into the next.
    since = within.to(q.dtype) @ log_decay
    total = since[:, :, :, -1]
    scores = (q * since.exp()) @ (k * (-since).exp()).transpose(-1, -2)
    y = scores.masked_fill(~within, 0.0) @ v
    # the memory at the beginning of each chunk, and after the last: what came in, and what each chunk wrote.
    written = k * (total[:, :, :, None] - since).exp().masked_fill(~writes, 0.0)
    written = torch.cat([memory[:, :, None], written.transpose(-1, -2) @ v], dim=2)
    passed = _passed(q.shape[2], q) @ total[:, :, None]
    kept = passed.masked_fill(~between[..., None], -torch.inf).exp()
    memories = torch.einsum("bhnmk,bhmkv->bhnkv", kept, written)
    y = y + (q * since.exp()).masked_fill(~reads, 0.0) @ memories[:, :, :-1]
    return y.flatten(2, 3)[:, :, :length], memories[:, :, -1]


def _visible(
    segments: Tensor | None, memory_segments: Tensor | None, num_chunks: int, padding: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Who sees whom, all true where allowed.

    Returns:
        Positions of one chunk (..., P, P); the memory before chunk n what chunk m - 1 wrote, or for m = 0 the memory
        that came in (..., N + 1, N + 1); a position the memory before its chunk (..., P, 1); the memory after a chunk
        a position in it (..., P, 1).
    """
    causal = torch.ones(CHUNK_SIZE, CHUNK_SIZE, dtype=torch.bool, device=like.device).tril()
    earlier = torch.ones(num_chunks + 1, num_chunks + 1, dtype=torch.bool, device=like.device).tril()
    if segments is None or memory_segments is None:
        everyone = torch.ones(CHUNK_SIZE, 1, dtype=torch.bool, device=like.device)
        return causal, earlier, everyone, everyone
    numbers = torch.cat([segments, segments[:, -1:].expand(-1, padding)], dim=1).view(
        len(segments), num_chunks, CHUNK_SIZE
    )
    last = torch.cat([memory_segments[:, None], numbers[:, :, -1]], dim=1)
    return (
        (causal & (numbers[..., None] == numbers[..., None, :]))[:, None],
        (earlier & (last[:, :, None] == last[:, None, :]))[:, None],
        (numbers == last[:, :-1, None])[:, None, ..., None],
        (numbers == last[:, 1:, None])[:, None, ..., None],
    )


def _passed(num_chunks: int, like: Tensor) -> Tensor:
    """Entry (n, m, c): 1 where chunk c lies between what stands in row m and the memory before chunk n."""
    n = torch.arange(num_chunks + 1, device=like.device)
    c = n[1:]
    return ((c <= n[:, None, None]) & (c > n[None, :, None])).to(like.dtype)


def _chunks(x: Tensor, padding: int) -> Tensor:
    """(B, H, T, K) to (B, H, N, P, K), in float32."""
    padded = F.pad(x.float(), (0, 0, 0, padding))
    return padded.reshape(*padded.shape[:2], -1, CHUNK_SIZE, padded.shape[-1])

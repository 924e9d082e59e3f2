"""An embedding whose vectors share a small store of bundles, told apart by keys that no one stores."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.config import build_config
from rhapsode.nn.config import HolographicConfig
from rhapsode.ops.hypervector import ALGEBRAS
from rhapsode.ops.superposition import read, route, superpose


class HolographicEmbedding(nn.Module):
    """Vectors of `vocab_size` ids in `num_bundles` rows of `dim` numbers.

    e_t = sum_j unbind(store[route_j(t)], key_j(t)) / sqrt(k): the id's rows, each turned by a key that a seed and the
    id regenerate (holographic reduced representations: Plate 1995; superposed parameters: Cheung et al. 2019,
    arXiv 1902.05522). An orthogonal turn keeps lengths: ids that share a row have vectors of one length, in directions
    that look unrelated. Trainable bytes: `size_bytes`; routes and keys are functions of the arguments.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        num_bundles: int,
        num_hashes: int = 1,
        algebra: str = "holographic",
        seed: int = 0,
    ) -> None:
        """Make a store to be filled.

        Args:
            num_bundles: L, from num_hashes to vocab_size; with vocab_size every id has a row of its own.
            num_hashes: k, rows that each id is spread over.
            algebra: kind of the keys: holographic (unitary), sign_flip or gaussian.
            seed: which keys and routes.

        Raises:
            UserError: if there are fewer bundles than hashes or more than ids, or no such algebra or seed.
        """
        super().__init__()
        settings = {"num_bundles": num_bundles, "num_hashes": num_hashes, "algebra": algebra, "seed": seed}
        build_config(HolographicConfig, settings, "model.holographic").check_vocabulary(vocab_size)
        self.vocab_size = vocab_size
        self.num_hashes = num_hashes
        self.algebra = ALGEBRAS[algebra](dim, seed)
        self.store = nn.Embedding(num_bundles, dim)
        self.register_buffer("routes", route(vocab_size, num_bundles, num_hashes, seed), persistent=False)
        # saved with the store, which other keys would read as noise.
        self.register_buffer("key_seed", torch.tensor(seed))

    @property
    def size_bytes(self) -> int:
        """Bytes of the store in float32: all that is trained or has to be saved."""
        return 4 * self.store.weight.numel()

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Return the vector of every id, float32.

        Raises:
            UserError: if an id is negative or beyond the vocabulary.
        """
        rows = read(self.store.weight, ids.flatten(), self._routes(), self.algebra)
        return rows.view(*ids.shape, self.algebra.dim)

    @property
    def weight(self) -> Float[Tensor, "C D"]:
        """The vectors of all ids: what a table of the full size would hold. Costs O(k C D log D); gradients flow."""
        vectors: Tensor = self(torch.arange(self.vocab_size, device=self.store.weight.device))
        return vectors

    @torch.no_grad()
    def superpose_(self, vectors: Float[Tensor, "C D"]) -> "HolographicEmbedding":
        """Fill the store in closed form with one vector an id; reading gives each back plus its neighbours' noise."""
        ids = torch.arange(self.vocab_size, device=vectors.device)
        store = superpose(vectors, ids, self._routes(), self.store.num_embeddings, self.algebra)
        self.store.weight.copy_(store)
        return self

    @torch.no_grad()
    def collapse_(self) -> "HolographicEmbedding":
        """Fill every bundle with the identity of binding: each id then reads exactly its own (conjugate) key.

        The trivial solution of any task whose target is the id's own key; a control.
        """
        one = self.algebra.from_spectra(torch.ones_like(self.algebra.spectra(torch.zeros(1, dtype=torch.int64))))
        self.store.weight.copy_(one.expand_as(self.store.weight))
        return self

    def keys(self) -> Float[Tensor, "C D"]:
        """The first key of every id, float32: what nobody needs to save."""
        ids = torch.arange(self.vocab_size, device=self.store.weight.device) * self.num_hashes
        return self.algebra.keys(ids)

    def _routes(self) -> Tensor:
        routes = self.routes
        assert isinstance(routes, Tensor)
        return routes


class HolographicEmbedder(nn.Module):
    """The same as the first part of a decoder, in place of its table. Remembers no earlier ids."""

    context = 0

    def __init__(self, vocab_size: int, width: int, config: HolographicConfig) -> None:
        super().__init__()
        if config.num_bundles is None:
            raise ValueError("model.holographic.num_bundles must be solved before the model is built.")
        self.table = HolographicEmbedding(
            vocab_size, width, config.num_bundles, config.num_hashes, config.algebra, config.seed
        )

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        past: Int[Tensor, "B 0"],
        segments: Int[Tensor, "B T"] | None = None,
        past_segments: Int[Tensor, "B 0"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Read each id's vector."""
        vectors: Tensor = self.table(ids)
        return vectors

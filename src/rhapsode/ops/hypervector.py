"""Hypervectors: keys from numbers, and the verbs that store many vectors in one and read them back.

Two algebras stand behind one interface: holographic reduced representations with unitary keys, bound by circular
convolution (Plate 1995, doi 10.1109/72.377968), and sign vectors bound by multiplication (the MAP algebra, Gayler
1998; a survey is Kleyko et al. 2021, arXiv 2111.06077). A unitary key has a spectrum of modulus one, so that unbinding
by the conjugate is exact and keeps every frequency's noise as it is; dividing by a Gaussian key's spectrum does not.

A third family has Gaussian keys, the ones Plate began with: kept for comparison, since its unbinding is approximate.

Binding is a product in some domain: of spectra, or of the vectors themselves. An algebra names that domain, and all
else follows from it.

Shapes: M is the size of a hypervector, `*B` any leading shape. Everything is computed in float32, or float64 where
that is given, and returned so. Every verb is differentiable in its vectors.
"""

from abc import ABC, abstractmethod
from functools import cache

import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

from rhapsode.ops.key_codes import key_codes, key_signs

TOKENS = 0
"""Stream of the keys of tokens."""
POSITIONS = 1
"""Stream of the keys of positions, independent of that of tokens under the same seed."""


class Algebra(ABC):
    """Keys and the verbs on hypervectors of `dim` numbers.

    Keys are a pure function of (seed, stream, id): no other id and no device changes one, so they need not be stored.
    """

    kind: str

    def __init__(self, dim: int, seed: int = 0, stream: int = TOKENS) -> None:
        """Fix the keys.

        Args:
            dim: M, at least 1; an even number with small prime factors makes the fastest transforms.
            seed: which keys.
            stream: a family of keys under that seed, such as `TOKENS` or `POSITIONS`.
        """
        if dim < 1 or seed < 0 or stream < 0:
            raise ValueError(f"dim must be at least 1, seed and stream at least 0; got {dim}, {seed} and {stream}.")
        self.dim = dim
        self.seed = seed
        self.stream = stream

    @abstractmethod
    def spectra(self, ids: Int[Tensor, "*B"]) -> Shaped[Tensor, "*B F"]:
        """Return the key of every id in the domain where binding is a product, on the device of `ids`."""

    @abstractmethod
    def to_spectra(self, vectors: Float[Tensor, "*B M"]) -> Shaped[Tensor, "*B F"]:
        """Take vectors into that domain."""

    @abstractmethod
    def from_spectra(self, spectra: Shaped[Tensor, "*B F"]) -> Float[Tensor, "*B M"]:
        """Bring vectors back."""

    def keys(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B M"]:
        """Return the key of every id, float32, on the device of `ids`. Costs O(B M), and a transform."""
        return self.from_spectra(self.spectra(ids))

    def bind(self, a: Float[Tensor, "*#B M"], b: Float[Tensor, "*#B M"]) -> Float[Tensor, "*#B M"]:
        """Return the product of two vectors, which is like neither; leading shapes broadcast."""
        return self.from_spectra(self.to_spectra(a) * self.to_spectra(b))

    def unbind(self, bundle: Float[Tensor, "*#B M"], key: Float[Tensor, "*#B M"]) -> Float[Tensor, "*#B M"]:
        """Return what was bound to `key`, plus noise from whatever else the bundle holds.

        Exact for a single pair with unitary or sign keys.
        """
        return self.from_spectra(self.to_spectra(bundle) * self.to_spectra(key).conj())

    def bundle(self, vectors: Float[Tensor, "... M"], dim: int = -2) -> Float[Tensor, "... M"]:
        """Return the sum over one dimension, which is like each of its parts."""
        return _wide(vectors).sum(dim)

    def permute(self, vectors: Float[Tensor, "*B M"], shift: int = 1) -> Float[Tensor, "*B M"]:
        """Return the vectors rolled by `shift` places; a negative shift undoes a positive one."""
        return _wide(vectors).roll(shift, dims=-1)

    def cleanup(
        self, vectors: Float[Tensor, "*B M"], candidates: Float[Tensor, "C M"], chunk_size: int = 8_192
    ) -> Int[Tensor, "*B"]:
        """Return the row of `candidates` with the largest dot product with each vector.

        Costs O(B C M) time and O(B chunk_size) memory. Of equal rows the first wins.

        Args:
            candidates: keys of one norm, as `keys` makes them.
            chunk_size: candidates at a time.
        """
        if candidates.shape[0] == 0:
            raise ValueError("cleanup needs at least one candidate; got none.")
        queries = _wide(vectors).reshape(-1, self.dim)
        best = queries.new_full((queries.shape[0],), -torch.inf)
        found = torch.zeros(queries.shape[0], dtype=torch.int64, device=queries.device)
        for start in range(0, candidates.shape[0], chunk_size):
            scores, rows = (queries @ candidates[start : start + chunk_size].to(queries.dtype).T).max(dim=-1)
            better = scores > best
            best, found = torch.where(better, scores, best), torch.where(better, rows + start, found)
        return found.reshape(vectors.shape[:-1])


class Holographic(Algebra):
    """Circular convolution with unitary keys of norm 1.

    bind(a, b)_i = sum_j a_j b_(i - j mod M), by real transforms in O(M log M) with F = M // 2 + 1 frequencies.
    Binding with a key keeps the norm.
    """

    kind = "holographic"

    def spectra(self, ids: Int[Tensor, "*B"]) -> Complex[Tensor, "*B F"]:
        """Return random phases of 16 bits and modulus one; what a real vector cannot turn has sign +1 or -1."""
        codes = key_codes(ids, self.dim // 2 + 1, self.seed, self.stream)
        codes[..., 0] &= 0x8000
        if self.dim % 2 == 0:
            codes[..., -1] &= 0x8000
        return _take(_phases(), codes)

    def to_spectra(self, vectors: Float[Tensor, "*B M"]) -> Complex[Tensor, "*B F"]:
        """Return the real Fourier transform."""
        spectra: Tensor = torch.fft.rfft(_wide(vectors))
        return spectra

    def from_spectra(self, spectra: Complex[Tensor, "*B F"]) -> Float[Tensor, "*B M"]:
        """Return the inverse transform."""
        vectors: Tensor = torch.fft.irfft(spectra, n=self.dim)
        return vectors


class Gaussian(Holographic):
    """Circular convolution with keys of independent normal numbers of variance 1 / M (Plate 1995).

    Their spectra have random moduli, so the correlation that unbinds returns a distorted vector even from one pair.
    """

    kind = "gaussian"

    def spectra(self, ids: Int[Tensor, "*B"]) -> Complex[Tensor, "*B F"]:
        """Return the transforms of the keys."""
        codes = key_codes(ids, self.dim, self.seed, self.stream)
        return self.to_spectra(_take(_normals(), codes) * self.dim**-0.5)


class SignFlip(Algebra):
    """Elementwise multiplication with keys of +1 and -1, of norm sqrt(M). Costs O(M); no transform, F = M."""

    kind = "sign_flip"

    def spectra(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B M"]:
        """Return the keys: random signs."""
        return key_signs(ids, self.dim, self.seed, self.stream)

    def to_spectra(self, vectors: Float[Tensor, "*B M"]) -> Float[Tensor, "*B M"]:
        """Return the vectors themselves, in float32 or wider."""
        return _wide(vectors)

    def from_spectra(self, spectra: Float[Tensor, "*B M"]) -> Float[Tensor, "*B M"]:
        """Return them as they are."""
        return spectra


ALGEBRAS: dict[str, type[Algebra]] = {"holographic": Holographic, "sign_flip": SignFlip, "gaussian": Gaussian}


def bind_plain(a: Float[Tensor, "*B M"], b: Float[Tensor, "*B M"]) -> Float[Tensor, "*B M"]:
    """Circular convolution by its definition, O(M^2)."""
    places = torch.arange(a.shape[-1], device=a.device)
    return torch.einsum("...j,...ij->...i", _wide(a), _wide(b)[..., (places[:, None] - places) % a.shape[-1]])


def unbind_plain(bundle: Float[Tensor, "*B M"], key: Float[Tensor, "*B M"]) -> Float[Tensor, "*B M"]:
    """Circular correlation by its definition, sum_j key_j bundle_(i + j mod M), O(M^2)."""
    places = torch.arange(key.shape[-1], device=key.device)
    turned = _wide(bundle)[..., (places[:, None] + places) % key.shape[-1]]
    return torch.einsum("...j,...ij->...i", _wide(key), turned)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _take(table: Tensor, codes: Tensor) -> Tensor:
    """Look numbers up, so that a code means the same number on every device."""
    return table.to(codes.device).index_select(0, codes.flatten()).view(codes.shape)


@cache
def _phases() -> Tensor:
    """exp(2 pi i c / 65536) for every code c."""
    angles = torch.arange(1 << 16, dtype=torch.float64, device="cpu") * (2 * torch.pi / (1 << 16))
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


@cache
def _normals() -> Tensor:
    """The normal quantile of (c + 1/2) / 65536 for every code c."""
    shares = (torch.arange(1 << 16, dtype=torch.float64, device="cpu") + 0.5) / (1 << 16)
    normals: Tensor = torch.special.ndtri(shares).float()
    return normals

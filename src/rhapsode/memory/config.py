"""Settings of durable memory."""

from pydantic import Field

from rhapsode.config import Config
from rhapsode.registry import Registry

STORES = Registry(
    "stores",
    {"sqlite": ("rhapsode.memory.store.sqlite:SQLiteStore", "one folder, no server; text, vectors, true deletion")},
)


class IndexConfig(Config):
    """How vectors are searched."""

    flat_limit: int = Field(default=50_000, ge=1)
    """Up to this many rows of a space every vector is compared; above, an inverted file of 4-bit codes narrows down.
    Fewer rows would train its lists badly."""
    lists_factor: float = Field(default=4.0, gt=0)
    """Lists of the inverted file over the square root of the number of rows."""
    points_per_list: int = Field(default=39, ge=1)
    """Vectors to train each list on."""
    rerank: int = Field(default=64, ge=1)
    """Candidates that are compared again with the stored vectors, at least twice as many as hits are asked for."""
    target_recall: float = Field(default=0.995, gt=0, le=1)
    """Share of the ten nearest that the lists searched must hold; decides their number when the index is built."""
    max_probes: int = Field(default=128, ge=1)
    """Most lists that one search reads."""
    retrain_factor: float = Field(default=4.0, gt=1)
    """The inverted file is trained again at the next open when the rows have grown by this factor."""


class StoreConfig(Config):
    """How a store writes, searches and erases."""

    max_text_bytes: int = Field(default=1_000_000, ge=1)
    """Longest text of one item, in bytes of UTF-8; also of its key, source, metadata and provenance each."""
    max_query_bytes: int = Field(default=65_536, ge=1)
    """Longest query."""
    bm25_k1: float = Field(default=1.2, ge=0)
    """How soon repetitions of a word stop counting."""
    bm25_b: float = Field(default=0.75, ge=0, le=1)
    """How much long texts are discounted."""
    common_share: float = Field(default=0.1, gt=0, le=1)
    """A word in more than this share of the rows is left out of a query that has rarer words that match."""
    common_min: int = Field(default=1_000, ge=0)
    """No word in at most this many rows is left out."""
    fusion_constant: float = Field(default=60.0, gt=0)
    """The constant c of reciprocal-rank fusion: a hit scores the sum of 1 / (c + rank)."""
    fusion_depth: int = Field(default=50, ge=1)
    """Hits of each kind of search that are fused, at least k."""
    busy_timeout_s: float = Field(default=30.0, gt=0)
    """How long a write waits for another process's write."""
    erase_timeout_s: float = Field(default=2.0, ge=0)
    """How long a forget waits for readers before it leaves the erasure to the next open."""
    checkpoint_pages: int = Field(default=4_000, ge=1)
    """Pages of the write-ahead log after which it is moved into the database."""
    cache_mb: int = Field(default=16, ge=1)
    """Memory for pages of the database."""
    index: IndexConfig = IndexConfig()
    """How vectors are searched."""

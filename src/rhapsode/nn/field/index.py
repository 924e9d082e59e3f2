"""Candidates for the active units out of cells, by the gate's own metric."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.errors import UserError

# rows that FAISS wants for each cell that it learns.
_ROWS_PER_CELL = 39
_MAX_CELLS = 4096


class UnitIndex:
    """Units in cells: FAISS's inverted file of centres for balls and products, cells of planes for slabs.

    A ball is an ordinary nearest neighbour. A product's energy is at least its ball's, and at most twice that where
    the plane passes through the centre, so the nearest centres are its candidates. A slab's |n.x + delta| is |m.z|
    with m = (n, delta) and z = (x, 1), a point-to-hyperplane query: m and -m are one plane, cells are learnt from rows
    of one sign, and those with the least lower bound |c.z| - r |z| are visited first (Huang & Tung 2023, arXiv
    2302.10626). In high dimension that bound is zero for every cell, and only visiting most of them finds the true K.
    """

    def __init__(self, normals: Tensor | None, offsets: Tensor, centres: Tensor | None, gate: str) -> None:
        """Learn the cells and sort every unit into its own.

        Raises:
            UserError: if faiss is not installed.
        """
        self._planes = gate == "slab"
        if self._planes:
            assert normals is not None
            rows = _one_sign(torch.cat([normals.float(), offsets.float().unsqueeze(1)], 1))
        else:
            assert centres is not None
            rows = centres.float()
        self._rows = np.ascontiguousarray(rows.detach().cpu().numpy())
        self.num_cells = max(1, min(int(4 * len(self._rows) ** 0.5), len(self._rows) // _ROWS_PER_CELL, _MAX_CELLS))
        faiss = _import_faiss()
        self._index = faiss.IndexIVFFlat(
            faiss.IndexFlatL2(self._rows.shape[1]), self._rows.shape[1], self.num_cells, faiss.METRIC_L2
        )
        self._index.cp.max_points_per_centroid = 64
        self._index.train(self._rows)
        if self._planes:
            self._sort_planes()
        else:
            self._index.add(self._rows)

    def candidates(self, x: Float[Tensor, "B D"], k: int, share: float) -> Int[Tensor, "B M"]:
        """Return at least K candidates for every input, -1 where the visited cells held fewer.

        Args:
            share: of the cells that are visited; at 1 the K nearest are always among the candidates of a ball or slab.
        """
        visited = max(1, round(share * self.num_cells))
        if self._planes:
            return self._near_planes(x, k, visited)
        self._index.nprobe = visited
        # a product ranks by more than the centre's distance, so it needs more candidates than a ball.
        number = min(len(self._rows), 4 * k)
        queries = np.ascontiguousarray(x.detach().float().cpu().numpy())
        _, ids = self._index.search(queries, number)
        if (ids[:, :k] < 0).any():
            self._index.nprobe = self.num_cells
            _, ids = self._index.search(queries, number)
        return torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(x.device)

    def _sort_planes(self) -> None:
        centroids = self._index.quantizer.reconstruct_n(0, self.num_cells)
        _, owner = self._index.quantizer.search(self._rows, 1)
        order = np.argsort(owner[:, 0], kind="stable")
        sizes = np.bincount(owner[:, 0], minlength=self.num_cells)
        self._members = torch.from_numpy(order)
        self._starts = torch.from_numpy(np.concatenate([[0], sizes.cumsum()]))
        self._centroids = torch.from_numpy(centroids)
        gaps = np.linalg.norm(self._rows - centroids[owner[:, 0]], axis=1)
        radii = np.zeros(self.num_cells, dtype=np.float32)
        np.maximum.at(radii, owner[:, 0], gaps)
        self._radii = torch.from_numpy(radii)

    def _near_planes(self, x: Tensor, k: int, visited: int) -> Tensor:
        z = torch.cat([x.float(), x.new_ones(x.shape[0], 1, dtype=torch.float32)], 1)
        gap = (z @ self._centroids.T).abs()
        bound = (gap - self._radii * z.norm(dim=1, keepdim=True)).clamp_min(0)
        # cells whose bound is zero are ordered by how near their own plane is.
        order = (bound + 1e-3 * gap).argsort(1)
        sizes = self._starts.diff()
        held = sizes[order].cumsum(1)
        # as many cells as were asked for, and more where they hold fewer than K units.
        enough = torch.maximum((held < k).sum(1) + 1, torch.tensor(visited)).clamp_max(self.num_cells)
        lists = []
        for row, number in zip(order, enough.tolist(), strict=True):
            cells = row[:number].tolist()
            lists.append(torch.cat([self._members[self._starts[c] : self._starts[c + 1]] for c in cells]))
        return torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1).to(x.device)


def _one_sign(rows: Tensor) -> Tensor:
    """Flip rows so that their largest entry by size is positive: a plane and its negative are the same."""
    signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return rows * signs.masked_fill(signs == 0, 1)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError(
            "field.search = index must have the package faiss-cpu; it is not installed. Run: pip install faiss-cpu"
        ) from None
    return faiss

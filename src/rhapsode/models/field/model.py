"""A local-linear field as a language model: projected context -> few numbers -> field -> what counting left over.

    z = projection(context)                 d views numbers; nothing in it is learnt but a whitening
    h = stage_one(z), sureness(p_base)      R1 numbers of unit mean square, and how sure the base is
    logits = (1 + g.h) log p_base + L h + field(h)

One output a class; ids outside the shortlist share one.

Shape letters: B sequences, T ids of a call, W window, Z projected numbers, J rows of a sparse context, H numbers
between the stages, C vocabulary, V classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.errors import UserError
from rhapsode.models.field.base import BEFORE, NUM_SURENESS, BaseDistribution, sureness
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.models.field.contexts import ContextProjection, ContextSource, SparseContexts, last_windows
from rhapsode.models.field.shortlist import Shortlist
from rhapsode.nn.field import Field
from rhapsode.nn.field.head import FieldOutput
from rhapsode.nn.linear import Linear
from rhapsode.nn.norm import rms_norm
from rhapsode.ops.sketch.whitening import Whitening

# as wide as what it is normalised to is not needed: updates are of one size, and should count from the start.
_TABLE_SPREAD = 0.3


@dataclass(frozen=True)
class FieldState:
    """What a field carries between calls: the ids it may still look at, `BEFORE` in front of the text."""

    position: int
    history: Tensor
    added: int


class DenseStage(nn.Module):
    """y = W z + b: the projected context as few numbers."""

    def __init__(self, in_dim: int, out_dim: int, seed: int) -> None:
        super().__init__()
        self.linear = Linear(in_dim, out_dim)
        self.bias = nn.Parameter(torch.zeros(out_dim))
        bound = (3 / in_dim) ** 0.5
        nn.init.uniform_(self.linear.weight, -bound, bound, generator=torch.Generator().manual_seed(seed))

    def forward(self, z: Float[Tensor, "N Z"]) -> Float[Tensor, "N H"]:
        """Map contexts."""
        out: Tensor = self.linear(z)
        return out + self.bias

    @torch.no_grad()
    def absorb(self, whitening: Whitening) -> None:
        """Give whitened contexts the outputs that they had before they were whitened."""
        # an output is a hyperplane's signed number of the context.
        weight, bias = whitening.map_hyperplanes(self.linear.weight, self.bias)
        self.linear.weight.copy_(weight)
        self.bias.copy_(bias)


class TableStage(nn.Module):
    """y = T^T s + b, where s is the sketch of a context of ids before it is mixed: its few rows are added up.

    The same maps as `DenseStage` after the mixing and, where the mixing drops dimensions, more of them; at O(J H) a
    context in place of O(Z H).
    """

    def __init__(self, num_rows: int, out_dim: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(_TABLE_SPREAD * torch.randn(num_rows, out_dim, generator=generator))
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, contexts: SparseContexts) -> Float[Tensor, "N H"]:
        """Map contexts."""
        rows, weights = contexts
        return F.embedding_bag(rows, self.table, per_sample_weights=weights, mode="sum") + self.bias


class FieldModel(nn.Module):
    """See `LanguageModel` for the contract. What `hidden` returns is h and, behind it, the base's log-probabilities."""

    class_of: Tensor

    def __init__(
        self,
        config: FieldModelConfig,
        shortlist: Shortlist,
        base: BaseDistribution,
        projection: ContextProjection,
        source: ContextSource | None = None,
        seed: int = 0,
    ) -> None:
        """Assemble the parts; units start at random, see `seed_field` for a start from data.

        Args:
            source: reads a teacher at every position; only in probe mode.
        """
        super().__init__()
        self.config, self.shortlist, self.base = config, shortlist, base
        self.compute_dtype = torch.float32
        # neither has parameters; kept out of the module tree so that only what is learnt is saved with the weights.
        self._parts = (projection, source)
        self.register_buffer("class_of", torch.from_numpy(shortlist.class_of), persistent=False)
        kind = config.first_stage
        if kind == "none":
            self.stage1: nn.Module | None = None
        elif kind == "table":
            self.stage1 = TableStage(projection.num_rows, config.stage1_dim, seed)
        elif kind == "dense":
            self.stage1 = DenseStage(projection.out_dim, config.stage1_dim, seed)
        else:
            self.stage1 = Field(projection.out_dim, config.stage1_dim, config.stage1_field, seed + 1)
        self.stage1_dim = projection.out_dim if self.stage1 is None else config.stage1_dim
        self.hidden_dim = self.stage1_dim + (NUM_SURENESS if config.reads_base else 0)
        self.field = Field(self.hidden_dim, shortlist.num_classes, config.field, seed)
        self.linear = Linear(self.hidden_dim, shortlist.num_classes) if config.linear else None
        self.trust = Linear(self.hidden_dim, 1) if config.reads_base else None
        for line in (self.linear, self.trust):
            if line is not None:
                nn.init.zeros_(line.weight)

    @property
    def projection(self) -> ContextProjection:
        """How contexts become numbers."""
        return self._parts[0]

    @property
    def source(self) -> ContextSource | None:
        """What reads the teacher, in probe mode."""
        return self._parts[1]

    @property
    def context(self) -> int:
        """Ids before the present one that anything here looks at."""
        read = 0 if self.source is None else self.source.context - 1
        return max(1, self.config.window - 1, self.base.context, read)

    def stage_one(
        self, projected: Float[Tensor, "N Z"] | SparseContexts, base: Float[Tensor, "N C"]
    ) -> Float[Tensor, "N H"]:
        """Return what the field reads: the first stage's numbers at a mean square of one, and how sure the base is."""
        found = projected if self.stage1 is None else self.stage1(projected)
        assert isinstance(found, Tensor)
        h = rms_norm(found)
        return torch.cat([h, sureness(base)], dim=1) if self.config.reads_base else h

    def explain(self, h: Float[Tensor, "N H"]) -> FieldOutput:
        """Return what is added to the base, one output a class, and how the field's part of it came about."""
        if self.linear is None:
            return self.field.explain(h)
        # energies of few near units change so fast with h that their gradient would drown the line's.
        said = self.field.explain(h if self.config.gate_gradient else h.detach())
        return said._replace(outputs=said.outputs + self.linear(h))

    def line(self, h: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """Return what would be added without units: the field's bias, and the linear map if there is one."""
        bias = self.field.bias.expand(len(h), -1)
        return bias if self.linear is None else bias + self.linear(h)

    def weigh(self, h: Float[Tensor, "N H"], base: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Return the base's log-probabilities times how far it is to be trusted; not normalised."""
        return base if self.trust is None else base * (1 + self.trust(h))

    def combine(self, h: Float[Tensor, "N H"], base: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Return the logits of all ids."""
        return self.weigh(h, base) + self.spread(self.explain(h).outputs)

    def spread(self, outputs: Float[Tensor, "N V"]) -> Float[Tensor, "N C"]:
        """Return what is said of the classes for each id."""
        return outputs.index_select(1, self.class_of)

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        state: FieldState | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        bundles: Float[Tensor, "B *L M"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], FieldState]:
        """Return h and the base's log-probabilities, D = H + C, and the new state.

        Args:
            segments: not looked at: a field reads a window of the stream, marks of documents included.
            bundles: none.

        Raises:
            UserError: if there are bundles.
        """
        if bundles is not None:
            raise UserError(
                "bundles must go to a model with model.embed = hypervector_stream; got a field. Leave them out."
            )
        past = ids.new_full((ids.shape[0], self.context), BEFORE) if state is None else state.history
        past = past[:, past.shape[1] - self.context :]
        projected = self.project(past, ids)
        base = self.base.read(past, ids).to(self.class_of.device)
        h = self.stage_one(projected, base.flatten(0, 1)).view(*ids.shape, -1)
        position = ids.shape[1] + (0 if state is None else state.position)
        new = FieldState(position, torch.cat([past, ids], dim=1), ids.shape[1])
        return torch.cat([h, base], dim=-1), new

    def project(self, past: Int[Tensor, "B P"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "N Z"] | SparseContexts:
        """Return the projected window that ends at each of `ids`, rows of B T; see `project_block`."""
        raw = None if self.source is None else self.source.windows(past, ids, self.config.window)
        return self.project_block(past, ids, raw)

    def project_block(
        self, past: Int[Tensor, "B P"], ids: Int[Tensor, "B T"], raw: Float[Tensor, "N F"] | None
    ) -> Float[Tensor, "N Z"] | SparseContexts:
        """The same where it is known what the teacher did in each window.

        Returns:
            what the first stage reads: projected numbers, or for a table the sketch before it is mixed.
        """
        windows = last_windows(past, ids, self.config.window)
        return self.projection.sparse(windows) if self.reads_sketches else self.projection(windows, raw)

    @property
    def reads_sketches(self) -> bool:
        """Whether the first stage is a table, so that contexts are sketched but not mixed."""
        return isinstance(self.stage1, TableStage)

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Return float32 logits of the next id."""
        h, base = torch.split(hidden, [self.hidden_dim, self.shortlist.vocab_size], dim=-1)
        flat = base.reshape(-1, self.shortlist.vocab_size).float()
        return self.combine(h.reshape(-1, self.hidden_dim).float(), flat).view(base.shape)

    def loss(
        self,
        ids: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        segments: Int[Tensor, "B T"] | None = None,
        chunk_size: int = 0,
        bundles: Float[Tensor, "B *L M"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Return the negative log-probability of each target in nats, float32; `chunk_size` is not needed."""
        hidden, _ = self.hidden(ids, segments=segments, bundles=bundles)
        logits = self.logits(hidden)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def rewind(self, state: FieldState, keep: int) -> FieldState:
        """Return the state as if the last call had been given only its first `keep` ids."""
        drop = state.added - keep
        history = state.history[:, : state.history.shape[1] - drop]
        return FieldState(state.position - drop, history, keep)

    def num_parameters(self) -> int:
        """Return the number of trainable scalars."""
        return sum(parameter.numel() for parameter in self.parameters())

    def project_parameters(self) -> None:
        """Bring normals and bands back into their bounds; after every optimizer step."""
        self.field.project()
        if isinstance(self.stage1, Field):
            self.stage1.project()

"""The flows of the comparison by name. Torch-free."""

from typing import Literal

from pydantic import Field

from rhapsode.config import Config
from rhapsode.errors import unknown_name
from rhapsode.memory.policies import Consolidate, Forget, KeyValueConfig, Policies


class TrainingConfig(Config):
    """How the encoder, the gate and the classifier of a preset are trained."""

    optimizer: Literal["sgd", "adam", "rmsprop"] = "adam"
    """The update rule."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Constant step size."""
    steps: int = Field(default=100, ge=0)
    """Optimizer steps; the steps of one agent and iteration in a swarm."""
    batch_size: int = Field(default=8, ge=1)
    """Stories in a step."""
    width: int = Field(default=256, ge=4)
    """Width of the encoder."""
    num_layers: int = Field(default=4, ge=1)
    """Layers of the encoder."""
    num_heads: int = Field(default=4, ge=1)
    """Attention heads of the encoder."""


class SwarmConfig(Config):
    """The population-based search: each agent draws an optimizer, a learning rate and a top-k every iteration."""

    managers: int = Field(default=2, ge=1)
    """Managers; each keeps the best of its agents, and the supervisor the best of theirs."""
    agents_per_manager: int = Field(default=5, ge=1)
    """Agents under a manager."""
    iterations: int = Field(default=10, ge=1)
    """Rounds of training and choosing."""
    lowest_rate: float = Field(default=1e-5, gt=0)
    """Least learning rate; drawn on a log scale."""
    highest_rate: float = Field(default=1e-3, gt=0)
    """Greatest learning rate."""
    highest_top_k: int = Field(default=10, ge=1)
    """Greatest number of memories read."""


class Preset(Config):
    """One flow: what answers, with which policies, trained how."""

    summary: str
    """The flow in one line."""
    method: Literal["trained", "random_nearest", "lexical", "bag_of_words", "majority"]
    """What answers."""
    policies: Policies | None = None
    """Of its memory; none for a method without memory or without choices."""
    training: TrainingConfig = TrainingConfig()
    """Of a trained method."""
    swarm: SwarmConfig = SwarmConfig()
    """Of a trained method whose policies ask for one."""
    answer: Literal["classifier", "nearest"] = "classifier"
    """A trained method answers by its classifier or by the label of the nearest key."""
    reencode: bool = False
    """Make all keys anew after training."""


def _memory(similarity: Literal["cosine", "dot"], entries: int | None, **settings: object) -> KeyValueConfig:
    return KeyValueConfig.model_validate({"similarity": similarity, "max_entries": entries, **settings})


def _lifecycle(consolidate: Consolidate, forget: Forget) -> Policies:
    return Policies(
        memory=_memory("cosine", 1000),
        write="surprise",
        read="mean",
        gate="learned",
        consolidate=consolidate,
        consolidate_every=1,
        forget=forget,
    )


PRESETS: dict[str, Preset] = {
    "current": Preset(
        summary="swarm, surprise 0.3, cosine, boosts, top-5 mean, learnt gate, consolidation that deletes, forgetting",
        method="trained",
        policies=Policies(
            memory=_memory("cosine", 400, context_boost=True),
            write="surprise",
            read="mean",
            gate="learned",
            consolidate="delete",
            forget="utility",
            swarm=True,
        ),
        training=TrainingConfig(steps=50, batch_size=4),
    ),
    "baseline1": Preset(summary="fine-tuned encoder and classifier, no memory", method="trained"),
    "baseline2": Preset(
        summary="trained encoder with memory and gate, no swarm and no lifecycle",
        method="trained",
        policies=Policies(memory=_memory("cosine", 1000), write="surprise", read="mean", gate="learned"),
    ),
    "baseline3": Preset(
        summary="random 64-d embeddings, mean pool, raw-dot nearest neighbour, nothing trained",
        method="random_nearest",
        policies=Policies(memory=_memory("dot", None)),
    ),
    "option1": Preset(
        summary="Adam 1e-4, 100 steps, surprise 0.05, raw dot, top-1, learnt gate",
        method="trained",
        policies=Policies(memory=_memory("dot", 1000), write="surprise", surprise_threshold=0.05, gate="learned"),
    ),
    "option2": Preset(
        summary="100 steps, every sample stored as it trains, raw-dot nearest stored label, no gate",
        method="trained",
        policies=Policies(memory=_memory("dot", None)),
        answer="nearest",
    ),
    "option2_reencoded": Preset(
        summary="option2 with every key made anew after training",
        method="trained",
        policies=Policies(memory=_memory("dot", None, keys="reencodable")),
        answer="nearest",
        reencode=True,
    ),
    "lifecycle_delete": Preset(
        summary="baseline2 with the document's lifecycle after every training: delete what is sure, forget what is not",
        method="trained",
        policies=_lifecycle("delete", "utility"),
    ),
    "lifecycle_verify": Preset(
        summary="the same with ours: delete only what the model was seen to know, forget only what was tried",
        method="trained",
        policies=_lifecycle("verify", "protected"),
    ),
    "rhapsode": Preset(
        summary="every story stored, exact word and character-n-gram search, calibrated abstention",
        method="lexical",
    ),
}
CONTROLS: dict[str, Preset] = {
    "bag_of_words": Preset(summary="control: the stored story that shares most words", method="bag_of_words"),
    "majority": Preset(summary="control: the most frequent word", method="majority"),
}


def choose_presets(names: str) -> dict[str, Preset]:
    """Return the presets of a comma-separated list, or of `all`; the controls always come after them.

    Raises:
        UserError: if a name is unknown.
    """
    known = {**PRESETS, **CONTROLS}
    asked = list(PRESETS) if names == "all" else [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in known:
            raise unknown_name("--preset", name, [*known, "all"])
    return {name: known[name] for name in dict.fromkeys([*asked, *CONTROLS])}

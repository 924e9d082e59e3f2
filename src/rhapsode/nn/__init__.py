"""The parts of a model as modules: embedders, mixers, feed-forwards, heads, the block."""

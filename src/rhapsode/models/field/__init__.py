"""A local-linear field as a language model: its inputs, the counts it corrects, and the model itself."""

"""Distillation of a teacher's whole context into a local-linear field: capture, features, training, online learning."""

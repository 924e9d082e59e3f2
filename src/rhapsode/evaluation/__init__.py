"""Suites: each measures a model on data and returns rows of figures with n and a 95 % interval."""

"""Curricula that ship with the package: ordered, weighted sources that every machine has."""

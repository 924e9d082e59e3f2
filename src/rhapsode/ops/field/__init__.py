"""Local-linear fields as pure functions: interpolation, gates, selection, the blend. Import the modules by name."""

"""Ascent: proposes parameters by the gradient of the solutions' likelihood."""

"""Ascent: proposes parameters by the gradient of the loss on solutions."""

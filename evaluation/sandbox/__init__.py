"""Executes what models generate in separate processes, under limits, and judges it from outside.

Guarantees and limits are those of ``pool`` and ``confinement``.
"""

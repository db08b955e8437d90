"""Execution of what models write: in processes of its own, under limits, judged from outside.

Guarantees and limits are those of ``pool`` and ``confinement``.
"""

"""The process that runs vLLM, and what is said to it.

vLLM's CPU worker replaces functions of torch and binds threads, and its GPU worker takes most of a GPU's memory: so the
engine lives in a process of its own, started once a search. Weights reach it through shared memory.
"""

"""The process that runs vLLM, and the messages to and from it.

vLLM's CPU worker replaces functions of torch and pins threads, and its GPU worker takes most of a GPU's memory. So the
engine has its own process, started once per search. Weights reach it through a small shared memory.
"""

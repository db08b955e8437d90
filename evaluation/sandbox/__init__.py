"""The sandbox: model-written code runs in one process, the tests in another, and only the tests' process can say "passed".

`pool` is what the rest of the package uses. `zygote`, `solution`, `checker`, `codec`, `limits`, `seccomp` and `landlock` are run by
isolated interpreters (``python -I -S``) and import nothing but the standard library and each other.
"""

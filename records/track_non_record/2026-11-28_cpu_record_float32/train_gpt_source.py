#!/usr/bin/env python3
"""Train, quantize, pack and score a language model of at most 2,000,000 bytes: the whole loop in one file.

    bash scripts/run_cuda_baseline.sh configs/local_cpu_smoke.env      sets up all it needs; any machine, a few minutes
    python3 train_gpt.py --config FILE.env SEED=7 MATRIX_LR=0.03       train, export, score; --check: only say what it would do
    python3 train_gpt.py --eval-only runs/ID/artifact.bin              score an artifact again
    python3 train_gpt.py --resume runs/ID                              go on with an interrupted run
    torchrun --standalone --nproc_per_node=2 train_gpt.py              several devices (open lane)

A run leaves runs/ID/ with train.log, settings.env, train_gpt.py, weights.npz, artifact.bin and result.json. The score comes from
artifact.bin as written to disk. Exit status: 0 done, 2 bad input, 3 over the cap, 4 diverged, 129/130/143 interrupted (resumable).
Text between `# shared: begin` and `# shared: end` is the same in the MLX twin.
"""
# shared: begin imports
from __future__ import annotations

import argparse, contextlib, dataclasses, difflib, errno, glob, hashlib, io, itertools, json, lzma, math, os, platform, re, shutil, signal
import collections, shlex, struct, sys, time, zipfile, zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import numpy as np, sentencepiece, zstandard
    from tqdm import tqdm
except ImportError as e:
    print(f"error: {e} ({sys.executable}); type: source .venv/bin/activate", file=sys.stderr)
    sys.exit(2)
# shared: end imports
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # CPU threads wait awake for under a ms: longer, and other programs make steps 10x as long
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # a GPU's products in the same order each time: Learner asks for it
import atexit, importlib.util, torch, torch.nn.functional as F
from torch import Tensor, distributed as dist, nn
from torch.optim.adam import adam
# Settings =============================================================================================================
# shared: begin settings
SOURCE = Path(__file__).read_bytes()  # what runs, whatever becomes of the file meanwhile
class UserError(Exception): """Something the user can mend. The text says which value is wrong, what is allowed and what to type."""
# One knob. `allowed` is (lowest, highest) for a number, a regular expression for a word; `default` has the type of its values.
Setting = collections.namedtuple("Setting", "name default allowed help", module=__name__)

COMMON_SETTINGS = [
    Setting("RUN_ID", "", r"(\w[\w.-]{0,99})?", "name of the run's folder under RUNS_DIR, which must be new; empty: date and time"),
    Setting("RUNS_DIR", "runs", ".+", "folder that holds the run folders"),
    Setting("SEED", 1337, (0, 2**31 - 1), "seed of the initial weights and of the order of the data"),
    Setting("PRECISION", "auto", "auto|bf16|fp32", "type of activations; auto: bf16 on a GPU (CUDA: of capability 8.0), fp32 on a CPU"),
    Setting("DATA_PATH", "data/datasets/fineweb10B_sp1024", ".+", "folder with *_train_*.bin and *_val_*.bin shards"),
    Setting("TOKENIZER_PATH", "data/tokenizers/fineweb_1024_bpe.model", ".+", "SentencePiece model, or a byte260 .json"),
    Setting("VAL_TOKENS", 4_194_304, (2, 2**40), "validation targets scored, from the first document on"),
    Setting("AUX_VAL", "", r"(\w+=[^,=]+(,\w+=[^,=]+)*)?", "more sets to score, as name=glob,name=glob; reported beside val_bpb"),
    Setting("EVAL_SEQ_SWEEP", "", r"([1-9]\d{0,4}(,[1-9]\d{0,4})*)?", "context lengths to score too, as 256,512; reported beside val_bpb"),
    Setting("VOCAB_SIZE", 1024, (2, 65_536), "pieces of the tokenizer"),
    Setting("NUM_LAYERS", 6, (1, 64), "transformer blocks"),
    Setting("MODEL_DIM", 192, (8, 4096), "width of the residual stream"),
    Setting("NUM_HEADS", 6, (1, 64), "query heads"),
    Setting("NUM_KV_HEADS", 3, (1, 64), "key and value heads; divides NUM_HEADS"),
    Setting("MLP_MULT", 2, (1, 16), "hidden width of the MLP, in multiples of MODEL_DIM"),
    Setting("MLP_LEAK", 0.0, (0.0, 1.0), "slope of the MLP's activation below zero, before it is squared"),
    Setting("CONV_TAPS", 0, (0, 64), "earlier tokens mixed into the input of attention and MLP by learned weights per channel; 0: none"),
    Setting("ATTN_WINDOW", 0, (0, 65_536), "positions that attention sees, the own one and those before it; 0: all"),
    Setting("BIGRAM_ROWS", 0, (0, 2**20), "rows of a second embedding, of hashed pairs of a token and the one before it; 0: none"),
    Setting("BIGRAM_DIM", 64, (1, 4096), "width of that embedding, before a matrix brings it to MODEL_DIM"),
    Setting("VALUE_EMBED", 0, (0, 1), "1: a second embedding, whose rows every block adds, scaled, to the values of its attention"),
    Setting("HEAD_GATE", 0, (0, 64), "channels of a block's input, at most all, that gate the output of each head; 0: no gates"),
    Setting("KEY_SHIFT", 0, (0, 1), "1: half of each key is that of the token before, so that a head finds what followed a token"),
    Setting("SMEAR", 0, (0, 1), "1: each token also gets a learned share, per channel, of the one before it in its document"),
    Setting("ROPE_BASE", 10_000.0, (10.0, 1e8), "base of the rotary position frequencies"),
    Setting("LOGIT_SOFTCAP", 30.0, (1.0, 300.0), "logits are softcap * tanh(logits / softcap)"),
    Setting("QK_GAIN_INIT", 1.5, (0.01, 100.0), "start of the learned gain per query head, after the QK norm"),
    Setting("EMBED_INIT_STD", 0.005, (1e-6, 10.0), "standard deviation of the initial tied embedding"),
    Setting("TRAIN_SEQ_LEN", 512, (8, 65_536), "tokens in a training sequence"),
    Setting("TRAIN_BATCH_TOKENS", 131_072, (8, 2**26), "tokens in an optimizer step, over all devices"),
    Setting("MAX_WALLCLOCK_SECONDS", 1800.0, (0.0, 1e7), "training clock: steps and export; 0: no limit, then ITERATIONS ends it"),
    Setting("ITERATIONS", 0, (0, 10**9), "optimizer steps at most; 0: the clock alone ends training"),
    Setting("WARMUP_STEPS", 20, (0, 10**6), "steps over which the learning rates rise"),
    Setting("WARMDOWN_FRAC", 0.6, (0.0, 1.0), "last share of the budget, over which the learning rates fall"),
    Setting("MATRIX_LR", 0.02, (0.0, 10.0), "Muon learning rate (matrices)"),
    Setting("EMBED_LR", 0.03, (0.0, 10.0), "Adam learning rate of the tied embedding, the value embedding and the table of hashed pairs"),
    Setting("VECTOR_LR", 0.02, (0.0, 10.0), "Adam learning rate of gains, scales and other vectors"),
    Setting("MUON_MOMENTUM", 0.95, (0.0, 0.9999), "Nesterov momentum of Muon"),
    Setting("MUON_MOMENTUM_START", 0.85, (0.0, 0.9999), "momentum at step 0"),
    Setting("MUON_MOMENTUM_WARMUP_STEPS", 300, (0, 10**6), "steps over which the momentum rises"),
    Setting("MUON_NS_STEPS", 5, (1, 20), "Newton-Schulz iterations"),
    Setting("MUON_WEIGHT_DECAY", 0.04, (0.0, 10.0), "decoupled weight decay of the matrices, times their learning rate"),
    Setting("ADAM_BETA1", 0.9, (0.0, 0.9999), "decay of Adam's first moment"),
    Setting("ADAM_BETA2", 0.95, (0.0, 0.99999), "decay of Adam's second moment"),
    Setting("ADAM_EPS", 1e-8, (1e-15, 1.0), "Adam's epsilon"),
    Setting("GRAD_CLIP_NORM", 1.0, (0.0, 1e6), "global gradient norm at most; 0: off"),
    Setting("VAL_LOSS_EVERY", 0, (0, 10**9), "steps between glances at validation (outside the clock); 0: none"),
    Setting("VAL_LOSS_TOKENS", 65_536, (2, 2**40), "validation targets of such a glance"),
    Setting("TRAIN_LOG_EVERY", 50, (1, 10**9), "steps between log lines"),
    Setting("CHECKPOINT_EVERY_SECONDS", 300.0, (0.0, 1e7), "seconds of training between checkpoints; 0: only when interrupted"),
    Setting("BITS_MATRIX", 6, (2, 8), "bits of a weight of the matrices"),
    Setting("BITS_EMBED", 8, (2, 8), "bits of a weight of the tied embedding"),
    Setting("QUANT", "clip", "clip|step", "clip: BITS_* and a scale per row; step: whole multiples of one step per matrix, for CODEC=rans"),
    Setting("STEP_MATRIX", 0.4, (0.01, 8.0), "QUANT=step: step of a matrix, in root mean squares of its weights"),
    Setting("STEP_TABLE", 0.9, (0.01, 8.0), "QUANT=step: step of hashed pairs and value embedding, in root mean squares of their weights"),
    Setting("STEP_EMBED", 0.014, (0.001, 8.0), "QUANT=step: step of the tied embedding, in root mean squares of its weights"),
    Setting("CALIBRATION_TOKENS", 0, (0, 2**30), "QUANT=step: training tokens whose inputs guide the rounding (GPTQ); 0: to nearest"),
    Setting("BALANCE_TOKENS", 0, (0, 2**30), "QUANT=step: training tokens whose gradients share the steps out; 0: STEP_* as they are"),
    Setting("DEAD_ZONE", 0.0, (0.0, 1.0), "QUANT=step: rounding leans to 0 by this x step / root mean square, 0.3 at most, in steps"),
    Setting("TARGET_BYTES", 0, (0, 2**40), "QUANT=step: scale all steps so that code + model come just below it; 0: leave them"),
    Setting("CODEC", "zstd", "zstd|zlib|rans", "compressor of the packed weights, always at its highest level; rans: our entropy coder"),
    Setting("CAP_BYTES", 2_000_000, (1, 2**40), "code bytes + model bytes at most; over it the exit status is 3"),
    Setting("EVAL_SEQ_LEN", 1024, (2, 65_536), "tokens of context a window holds"),
    Setting("EVAL_STRIDE", 64, (1, 65_536), "targets scored by each window after the first"),
    Setting("NGRAM_CACHE", 0, (0, 16), "scoring asks what followed the last 1 to so many tokens before (memory: 0.6 kB a target); 0: no"),
    Setting("TTT_LR", 0.0, (0.0, 0.01), "test-time training on each window once it is scored: Adam learning rate; 0: none"),
    Setting("TTT_DOC_LR", 0.0, (0.0, 0.01), "added to TTT_LR for what is forgotten again when the document ends; 0: nothing is"),
    Setting("GAP_TOKENS", 262_144, (1, 2**40), "targets, in whole windows, scored before export too: the export gap"),
]
# What an artifact's header carries: enough to rebuild the model and score it again. An artifact without the later keys means the defaults.
MODEL_KEYS = "VOCAB_SIZE NUM_LAYERS MODEL_DIM NUM_HEADS NUM_KV_HEADS MLP_MULT ROPE_BASE LOGIT_SOFTCAP EVAL_SEQ_LEN EVAL_STRIDE".split()
LATER_KEYS = "MLP_LEAK ATTN_WINDOW BIGRAM_ROWS BIGRAM_DIM VALUE_EMBED SMEAR HEAD_GATE CONV_TAPS KEY_SHIFT".split()
LATER_KEYS += "NGRAM_CACHE TTT_LR TTT_DOC_LR".split()  # how it is scored, which may be given by hand
FORMER_KEYS = {x.name for x in COMMON_SETTINGS if re.match("ADAM|MUON|GRAD|(MATRIX|EMBED|VECTOR)_LR", x.name)}  # older headers: unused
MAY_CHANGE = "ITERATIONS MAX_WALLCLOCK_SECONDS MICROBATCH_TOKENS EVAL_BATCH_TOKENS TRAIN_LOG_EVERY".split()  # when a run is resumed
EXIT_BAD_INPUT, EXIT_OVER_CAP, EXIT_DIVERGED = 2, 3, 4

class Settings:
    """Resolved settings: `s.MODEL_DIM` is a value, `s.sources["MODEL_DIM"]` says where it came from."""
    def __init__(self, table: list[Setting]):
        self.table, self.values = {x.name: x for x in table}, {x.name: x.default for x in table}
        self.sources, self.warnings = dict.fromkeys(self.table, "default"), []
    def __getattr__(self, name: str) -> int | float | str:
        if name.startswith("_") or name not in self.values: raise AttributeError(f"no setting is called {name}")
        return self.values[name]
    def set(self, name: str, text: str, source: str) -> None:
        """Parse and range-check one value. Raises UserError."""
        if name not in self.table:
            close = difflib.get_close_matches(name.upper(), self.table, 1, 0.6)
            raise UserError(f"{source}: no setting is called {name}; " + (f"did you mean {close[0]}?" if close else "`--help` lists them"))
        setting = self.table[name]
        kind, allowed = type(setting.default), setting.allowed
        try: value = kind(text)
        except ValueError:
            raise UserError(f"{source}: {name}={text} is not a{' whole' * (kind is int)} number; default: {setting.default}") from None
        if not (re.fullmatch(allowed, value) if kind is str else allowed[0] <= value <= allowed[1]):  # nan is not between
            what = allowed if kind is str else f"{allowed[0]} to {allowed[1]}"
            raise UserError(f"{source}: {name}={text} is not allowed; allowed: {what}; default: {setting.default}")
        self.values[name], self.sources[name] = value, source
    def read_file(self, path: str | Path, any_twin: bool = False) -> None:
        """Take KEY=VALUE lines of a .env file; `#` starts a comment. any_twin: pass over backend settings that do not fit here."""
        try: lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"cannot read the settings file {path}: {e}; `ls configs` lists those that come along") from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"): continue
            pair = re.fullmatch(r"""\s*(?:export )?\s*([^\s=#]+)\s*=\s*(?:"(.*?)"|'(.*?)'|(.*?))\s*(?:\s#.*)?""", line)
            if not pair: raise UserError(f"{path}:{number}: `{line.strip()}` is not KEY=VALUE")
            try: self.set(pair[1], pair[2] or pair[3] or pair[4] or "", f"{path}:{number}")
            except UserError:
                if not any_twin or pair[1] in {x.name for x in COMMON_SETTINGS}: raise
    def as_env(self) -> str:
        odd = {k: f'"{v}"' for k, v in self.values.items() if re.search(r"""^[\s"']|[\s"']$|\s#""", str(v))}
        return "".join(f"{k}={v}\n" for k, v in (self.values | odd).items())
def nearby(value: int, unit: int) -> str: return "try " + " or ".join(str(n * unit) for n in (value // unit, value // unit + 1) if n)
def check_settings(s: Settings) -> None:
    """Check the settings against one another, before anything is loaded. Raises UserError."""
    for big, small in (("MODEL_DIM", "NUM_HEADS"), ("NUM_HEADS", "NUM_KV_HEADS"), ("TRAIN_BATCH_TOKENS", "TRAIN_SEQ_LEN")):
        a, b = s.values[big], s.values[small]
        if a % b: raise UserError(f"{big}={a} is not divisible by {small}={b}; {nearby(a, 2 * b if small == 'NUM_HEADS' else b)}")
    if odd := [n for n, x in s.table.items() if type(x.default) is bool]: raise UserError(f"{odd[0]}: let its default be 0 or 1, no bool")
    for name in ("TARGET_BYTES", "CALIBRATION_TOKENS", "BALANCE_TOKENS", "DEAD_ZONE"):
        if s.values[name] and s.QUANT == "clip": raise UserError(f"{name}={s.values[name]} needs QUANT=step; set that, or {name}=0")
    width, stride, length, limit = s.MODEL_DIM, s.EVAL_STRIDE, s.EVAL_SEQ_LEN, s.MAX_WALLCLOCK_SECONDS or s.ITERATIONS
    if width // s.NUM_HEADS % 2: raise UserError(f"MODEL_DIM={width} makes heads of odd width: no RoPE; {nearby(width, 2 * s.NUM_HEADS)}")
    if stride > length: raise UserError(f"EVAL_STRIDE={stride} leaves targets out; allowed: up to EVAL_SEQ_LEN={length}")
    if not limit: raise UserError("MAX_WALLCLOCK_SECONDS=0 and ITERATIONS=0: training would never end; set one of them")
def command_line() -> argparse.ArgumentParser:
    table = ["settings: KEY=VALUE in a --config file, in the environment or here (the later wins)"]
    table += [f"  {x.name:<27}{str(x.default) or '(empty)':<12} {x.help}" for x in SETTINGS]
    parser = argparse.ArgumentParser(description=__doc__, epilog="\n".join(table), allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # keeps these lines apart
    parser.add_argument("--config", metavar="FILE.env", help="settings file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="no training: print sizes, memory, steps, times and what will go wrong")
    what.add_argument("--eval-only", metavar="ARTIFACT", help="score an artifact and print its val_bpb")
    what.add_argument("--resume", metavar="RUN_FOLDER", help="go on with an interrupted run")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, listed below")
    return parser
def check_resumable(folder: Path) -> None:
    """Raises UserError if no run began in a folder, if it is finished, or was begun with another source."""
    if (folder / "result.json").exists():
        raise UserError(f"{folder} is finished: its score is in result.json; score it again with --eval-only {folder / 'artifact.bin'}")
    copy = folder / "train_gpt.py"
    if not (copy.exists() and (folder / "settings.env").exists()):
        raise UserError(f"--resume {folder}: no run began there, as settings.env or train_gpt.py is missing; `ls runs` shows the runs")
    if copy.read_bytes() != SOURCE:
        raise UserError(f"the source has changed since {folder} began; go on with its own: python3 {copy} --resume {folder}")
def load_settings(argv: list[str] | None, environ: dict[str, str] | None = None) -> Settings:
    """Resolve the settings of a command line: defaults < run folder < --config < environment < KEY=VALUE. Raises UserError."""
    args, s = command_line().parse_intermixed_args(argv), Settings(SETTINGS)
    if "" in (args.config, args.eval_only, args.resume): raise UserError("--config, --eval-only and --resume take a name, not an empty one")
    folder = Path(args.resume) if args.resume else Path(args.eval_only).parent if args.eval_only else None
    if args.resume: check_resumable(folder)
    if args.eval_only and not Path(args.eval_only).is_file(): raise UserError(f"--eval-only {args.eval_only}: there is no such file")
    if folder and (args.resume or not args.config) and (folder / "settings.env").is_file():
        s.read_file(folder / "settings.env", any_twin=bool(args.eval_only))
        s.values["DEVICE"] = s.DEVICE if args.resume else "auto"  # an artifact is scored wherever it is
    begun = dict(s.values)
    if args.config: s.read_file(args.config)
    for name, value in (os.environ if environ is None else environ).items():
        if name in s.table: s.set(name, value, "environment")
        elif close := difflib.get_close_matches(name, s.table, 1, 0.87):
            s.warnings.append(f"the environment has {name}, which is no setting; did you mean {close[0]}?")
    for item in args.settings:
        name, equals, value = item.partition("=")
        if not equals: raise UserError(f"`{item}` is neither an option nor KEY=VALUE; `--help` lists both")
        s.set(name, value, "command line")
    if args.resume and (changed := [n for n in begun if s.values[n] != begun[n] and n not in MAY_CHANGE]):
        raise UserError(f"--resume {folder}: it began with {changed[0]}={begun[changed[0]]}; only {' '.join(MAY_CHANGE)} may change")
    if args.resume: s.warnings += [f"{n} was {begun[n]}, is {s.values[n]} now" for n in MAY_CHANGE if s.values[n] != begun[n]]
    check_settings(s)
    return s
# shared: end settings
BACKEND_SETTINGS = [
    Setting("DEVICE", "auto", "auto|cuda|cpu", "where to run; auto: CUDA if there is one"),
    Setting("COMPILE", "auto", "auto|on|off", "torch.compile; auto: on CUDA, with CUDA graphs; on: without them, and on CPUs (a minute)"),
    Setting("MICROBATCH_TOKENS", 0, (0, 2**26), "tokens per forward and backward pass on a device; 0: the whole batch at once"),
    Setting("EVAL_BATCH_TOKENS", 65_536, (2, 2**26), "tokens per forward pass while scoring"),
]
SETTINGS = COMMON_SETTINGS + BACKEND_SETTINGS

@dataclasses.dataclass
class Runtime:
    """Where and how this process computes. `notes`: what was chosen in place of the usual and why, a line each."""
    device: torch.device
    dtype: torch.dtype
    compile: bool
    notes: list[str]
    graphs: bool = False  # CUDA graphs: all kernels of a pass launched at once. They overwrite the last gradients, so none are summed
    rank: int = int(os.environ.get("RANK", 0))
    world: int = int(os.environ.get("WORLD_SIZE", 1))
    control: object = None  # gloo group for the numbers that all ranks must agree on
    @property
    def cuda(self) -> bool: return self.device.type == "cuda"
    def about(self) -> dict[str, str]:
        name = torch.cuda.get_device_name(self.device) if self.cuda else f"CPU, {torch.get_num_threads()} threads"
        return {"device": name, "precision": str(self.dtype).removeprefix("torch."), "torch": torch.__version__}
    def start(self, seed: int = 0) -> None:
        """Set this process's device up and, under torchrun, join the other processes. `seed`: of what a model draws by itself."""
        torch.manual_seed(seed)
        if self.cuda: torch.cuda.set_device(self.device)
        else: torch.set_flush_denormal(True)
        if self.compile and not self.cuda and sys.platform == "linux": torch._inductor.config.cpp_wrapper = True  # 5% of a step
        self.steps_in_flight = 2 * self.cuda  # how far the host may run ahead of the device
        if self.world > 1:
            dist.init_process_group("nccl" if self.cuda else "gloo")
            self.control = dist.new_group(backend="gloo")
            atexit.register(dist.destroy_process_group)
    def synchronize(self) -> None:
        if self.cuda: torch.cuda.synchronize(self.device)
    def memory(self) -> tuple[int, float]:
        """Most bytes held so far, and how many there are (where that is a limit worth a warning)."""
        if self.cuda: return torch.cuda.max_memory_allocated(self.device), torch.cuda.mem_get_info(self.device)[1]
        return peak_process_bytes(), math.inf
    def agree_max(self, *values: float) -> list[float]:
        """The largest of each value over all ranks, so that every rank takes the same decision."""
        box = torch.tensor(values, dtype=torch.float64)
        if self.world > 1: dist.all_reduce(box, dist.ReduceOp.MAX, group=self.control)
        return box.tolist()
    def from_first(self, text: str) -> str:
        """Rank 0's text, on every rank; all wait for it."""
        box = [text]
        if self.world > 1: dist.broadcast_object_list(box, group=self.control)
        return box[0]
def resolve_device(s: Settings) -> Runtime:
    """Pick device, precision and compilation; fall back with a reason where the machine lacks something. Raises UserError."""
    notes, use_compile = [], s.COMPILE != "off"
    if not torch.cuda.is_available() or s.DEVICE == "cpu":
        if s.DEVICE == "cuda": raise UserError("DEVICE=cuda: torch finds no CUDA device (`nvidia-smi`: CUDA 13 takes driver 580 or newer); "
            "without one\n  bash scripts/run_cuda_baseline.sh configs/local_cpu_smoke.env")
        if s.DEVICE == "auto": notes.append("no CUDA device: running on the CPU")
        compiler = any(shutil.which(c) for c in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl"))
        if s.COMPILE == "on" and not compiler: notes.append("COMPILE=on, but there is no C++ compiler: running without torch.compile")
        bf16 = s.PRECISION == "bf16" and any(has and name.endswith("bf16") for name, has in torch.cpu.get_capabilities().items())
        if s.PRECISION == "bf16" and not bf16: notes.append("this CPU has no bf16 instructions, and is slow in it: running in fp32")
        return Runtime(torch.device("cpu"), torch.bfloat16 if bf16 else torch.float32, s.COMPILE == "on" and compiler, notes)
    capability = torch.cuda.get_device_capability(device := torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))))
    bf16 = s.PRECISION != "fp32" and capability >= (8, 0)
    if s.PRECISION != "fp32" and not bf16: notes.append(f"compute capability {capability} has no fast bf16: running in fp32")
    triton = capability >= (7, 0) and importlib.util.find_spec("triton") is not None
    if use_compile and not triton: notes.append(f"no Triton (capability {capability}, {platform.system()}): running without torch.compile")
    graphs = s.COMPILE == "auto" and triton and Runtime.world == 1 and not 0 < s.MICROBATCH_TOKENS < s.TRAIN_BATCH_TOKENS
    return Runtime(device, torch.bfloat16 if bf16 else torch.float32, use_compile and triton, notes, graphs)
# Shards and batches ===================================================================================================
# shared: begin shards
SHARD_MAGIC, SHARD_VERSION, SHARD_HEADER_BYTES = 20240520, 1, 1024
BOS = 1  # every document starts with it
class DataError(UserError): """Shards or tokenizer are not what they should be."""
def open_shard(path: str | Path) -> np.ndarray:
    """Memory-map a shard: (tokens,) uint16. Raises DataError unless magic, version and exact size fit."""
    try: size, header = os.path.getsize(path), np.fromfile(path, "<i4", SHARD_HEADER_BYTES // 4)
    except OSError as e: raise DataError(f"cannot read the shard {path}: {e.strerror}") from None
    if len(header) * 4 < SHARD_HEADER_BYTES: wrong = f"{size} bytes are less than a shard's header of {SHARD_HEADER_BYTES}"
    elif header[0] != SHARD_MAGIC or header[1] != SHARD_VERSION:
        wrong = f"magic {header[0]} version {header[1]}, not {SHARD_MAGIC} version {SHARD_VERSION}: not a token shard"
    elif header[2] <= 0 or size != SHARD_HEADER_BYTES + 2 * int(header[2]):
        wrong = f"{size} bytes, but its header announces {header[2]} tokens, so {SHARD_HEADER_BYTES + 2 * int(header[2])} bytes"
    else: return np.memmap(path, "<u2", "r", offset=SHARD_HEADER_BYTES)
    raise DataError(f"{path}: {wrong}; fetch or build it again (data/README.md)")
def find_shards(pattern: str) -> list[Path]:
    """The shards that a glob names, in name order. Raises DataError if there are none."""
    paths = sorted(Path(p) for p in glob.glob(pattern))
    if not paths:
        fetch = "python3 data/cached_challenge_fineweb.py --variant sp1024 --train-shards 2"
        raise DataError(f"no shard fits {pattern}. FineWeb: {fetch}; without a network: python3 data/build_embedded_corpus.py")
    return paths
def check_tokens(tokens: np.ndarray, vocab_size: int, where: Path) -> None:
    if tokens.max() >= vocab_size:
        raise DataError(f"{where}: token {tokens.max()} is not one of VOCAB_SIZE={vocab_size}; shards and tokenizer do not belong together")
def load_tokens(pattern: str, limit: int, vocab_size: int) -> np.ndarray:
    """The first `limit` + 1 tokens of a stream that starts with BOS: (n,) uint16, n - 1 of them targets. Raises DataError."""
    paths = find_shards(pattern)
    tokens = np.concatenate([open_shard(path)[: limit + 1] for path in paths])[: limit + 1].copy()
    check_tokens(tokens, vocab_size, paths[0])
    if len(tokens) < 2 or tokens[0] != BOS:
        raise DataError(f"{paths[0]}: a stream starts with BOS (token {BOS}) and holds 2 tokens or more; this starts with {tokens[:2]}")
    return tokens

class TrainSequences:
    """Training batches in an order that depends on the seed and the step alone, on any number of devices: each epoch shuffles all
    sequences anew. A sequence lies within one shard. Each epoch cuts the shards at another offset, to see other boundaries."""
    def __init__(self, s: Settings, rank: int = 0, world: int = 1):
        paths = find_shards(f"{glob.escape(s.DATA_PATH)}/*_train_[0-9]*.bin")
        self.shards = [open_shard(path) for path in paths]
        self.seq_len, self.seed, self.shuffled_epoch = s.TRAIN_SEQ_LEN, s.SEED, -1
        self.batch_size = s.TRAIN_BATCH_TOKENS // s.TRAIN_SEQ_LEN  # sequences, over all devices
        self.rank, self.share = rank, self.batch_size // world
        self.ends = np.cumsum([max(0, (len(x) - self.seq_len) // self.seq_len) for x in self.shards])
        self.per_epoch = int(self.ends[-1])
        if not self.per_epoch:
            raise DataError(f"{paths[0].parent}: no shard holds two sequences of TRAIN_SEQ_LEN={self.seq_len}; lower it or add data")
        if self.batch_size % world:
            batch, unit = s.TRAIN_BATCH_TOKENS, s.TRAIN_SEQ_LEN * world
            raise UserError(f"TRAIN_BATCH_TOKENS={batch} cannot be shared evenly by {world} devices; {nearby(batch, unit)}")
    def epoch(self, step: int) -> float: return step * self.batch_size / self.per_epoch
    def sequence(self, index: int) -> np.ndarray:
        """Sequence `index` of the run, inputs and targets overlapping: (seq_len + 1,) uint16."""
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self.shuffled_epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self.order, self.shuffled_epoch = rng.permutation(self.per_epoch), epoch
            self.offset = int(rng.integers(self.seq_len)) if epoch else 0
        shard = int(np.searchsorted(self.ends, pick := int(self.order[position]), "right"))
        start = (pick - (int(self.ends[shard - 1]) if shard else 0)) * self.seq_len + self.offset
        return self.shards[shard][start : start + self.seq_len + 1]
    def batch(self, step: int) -> np.ndarray:
        """This device's share of the batch of a step: (sequences, seq_len + 1) int32."""
        first = step * self.batch_size + self.rank * self.share
        return np.stack([self.sequence(first + i) for i in range(self.share)]).astype(np.int32)
def prefetch(make: Callable[[int], object], first: int, depth: int = 3) -> Iterator[object]:
    """Yields make(first), make(first + 1), …, computed in a thread, `depth` ahead. Raises what `make` raises."""
    with ThreadPoolExecutor(1) as pool:
        ahead = collections.deque()
        for i in itertools.count(first):
            ahead.append(pool.submit(make, i))
            if len(ahead) > depth: yield ahead.popleft().result()
# shared: end shards
# Bytes per token ======================================================================================================
# shared: begin bytes
@dataclasses.dataclass
class ByteTable:
    """How many bytes of text each token stands for: arrays of shape (vocab,), and the decoder they are held against."""
    base_bytes: np.ndarray  # UTF-8 length of the piece without its leading `▁`; 1 for byte-fallback pieces; 0 for control pieces
    leading_space: np.ndarray  # the piece starts with `▁`, a space that counts unless the token before it is a boundary
    boundary: np.ndarray  # control, unknown and unused pieces, after which no space is written
    byte_piece: np.ndarray  # byte-fallback pieces
    decode: Callable[[list[list[int]]], list[bytes]]  # lists of token ids -> their text in UTF-8
    encode: Callable[[str], list[int]] | None = None  # text -> token ids, to tell whether a stream is this tokenizer's own
    @classmethod
    def load(cls, path: str | Path) -> ByteTable:
        """From a SentencePiece model, or from the .json of a byte tokenizer. Raises DataError."""
        if not Path(path).is_file(): raise DataError(f"TOKENIZER_PATH={path} is not there (from {Path.cwd()}); see data/README.md")
        if Path(path).suffix == ".json":  # the byte tokenizer: 4 control ids, then the 256 bytes
            control = np.arange(260) < 4
            return cls(1 - control, control & False, control, ~control, lambda texts: [bytes(i - 4 for i in ids if i > 3) for ids in texts])
        try: sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as e: raise DataError(f"TOKENIZER_PATH={path} is not a SentencePiece model: {e}") from None
        pieces = list(map(sp.id_to_piece, ids := range(sp.get_piece_size())))
        byte_piece = np.array([sp.is_byte(i) for i in ids])
        boundary = np.array([sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i) for i in ids])
        leading = np.array([p.startswith("▁") for p in pieces]) & ~byte_piece & ~boundary
        base = np.array([len(p.removeprefix("▁").replace("▁", " ").encode()) for p in pieces], np.int64)
        base[byte_piece], base[boundary] = 1, 0
        return cls(base, leading, boundary, byte_piece, lambda texts: [t.encode() for t in sp.decode(texts, num_threads=-1)], sp.encode)
    def target_bytes(self, previous: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Bytes of each target token, given the token before it: (n,), (n,) -> (n,) int64."""
        return self.base_bytes[target] + (self.leading_space[target] & ~self.boundary[previous])
def document_bounds(tokens: np.ndarray) -> np.ndarray:
    """Where documents start, and the end of the last one: (documents + 1,)."""
    return np.append(np.flatnonzero(tokens == BOS), len(tokens))
def audit_bytes(tokens: np.ndarray, table: ByteTable, name: str = "DATA_PATH") -> int:
    """Check the byte table against the decoded text of the set `name`, document by document; return the bytes of all targets.
    tokens: (n,), starting with BOS. The last document may be cut inside a character, so its last byte pieces are not compared.
    Raises DataError naming the first document whose counts differ, or if most documents' text gives other tokens than theirs."""
    bounds, sums = document_bounds(tokens), np.concatenate([[0, 0], np.cumsum(table.target_bytes(tokens[:-1], tokens[1:]))])
    while table.byte_piece[tokens[bounds[-1] - 1]]: bounds[-1] -= 1
    for first in range(0, len(bounds) - 1, 4096):
        pairs = list(zip(bounds[first : first + 4096], bounds[first + 1 : first + 4097]))
        texts = table.decode([tokens[a + 1 : b].tolist() for a, b in pairs])
        for i, ((a, b), text) in enumerate(zip(pairs, texts), first):
            if len(text) != (n := sums[b] - sums[a]):
                raise DataError(f"byte audit, {name}: document {i}, tokens {a} to {b}: {len(text)} bytes of text, but the table counts {n}")
        heads = [(x[:999].decode(errors="ignore"), tokens[a + 1 : a + 65].tolist()) for (a, b), x in zip(pairs[:64], texts) if b - a > 80]
        if table.encode and sum(table.encode(x)[:64] == ids for x, ids in heads) < len(heads) / 2:
            raise DataError(f"the documents' text does not give their tokens again: another tokenizer than TOKENIZER_PATH made {name}")
    return int(sums[-1])
def bits_per_byte(nats: np.ndarray, target_bytes: np.ndarray) -> tuple[float, float]:
    """(val_loss, val_bpb): mean nats per token, and (mean nats / ln 2) * (tokens / bytes)."""
    total = float(np.sum(nats, dtype=np.float64))
    return total / len(nats), total / math.log(2) / int(np.sum(target_bytes))
def sha256_of(data: np.ndarray | bytes) -> str: return hashlib.sha256(data).hexdigest()
# shared: end bytes
# Model ================================================================================================================
# shared: begin roles
ROLES = {"embed": "embed", "bigram": "table", "value_embed": "table"}  # last part or two of a name -> role: start, optimizer, rate and bits
ROLES |= dict.fromkeys(["q", "k", "v", "out", "up", "down", "bigram_up"], "matrix")
ROLES |= dict.fromkeys("q_gain attn_scale mlp_scale mix skips smear attn.gate attn_conv mlp_conv value_scale".split(), "vector")
def role_of(name: str) -> str:
    """Role of a parameter, by the end of its name. Raises UserError for one that has none."""
    last, two = (".".join(name.split(".")[-n:]) for n in (1, 2))
    if two in ROLES or last in ROLES: return ROLES.get(two) or ROLES[last]
    raise UserError(f"parameter {name} has no role, so no optimizer would train it and nothing would export it; add {two!r} to ROLES")
def initial_weights(s: Settings, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Starting values, the same in both twins for a seed; the role vector keeps those in `weights`, the model's own. Tables and
    matrices that write into the residual stream start at zero, others normal with standard deviation 1 / sqrt(inputs)."""
    rng, start = np.random.default_rng([s.SEED, 2**32 - 1]), {}
    for name, value in sorted(weights.items()):
        if (role := role_of(name)) == "vector": start[name] = value
        elif value.ndim != 2 or not value.shape[1]: raise UserError(f"{name} {value.shape}: role {role} takes 2 dimensions, vector any")
        elif name.removesuffix(".weight").endswith((".out", ".down")) or role == "table": start[name] = np.zeros(value.shape, np.float32)
        else: start[name] = rng.standard_normal(value.shape) * (s.EMBED_INIT_STD if role == "embed" else value.shape[1] ** -0.5)
    return {name: value.astype(np.float32) for name, value in start.items()}
# shared: end roles
def norm(x: Tensor) -> Tensor: return F.rms_norm(x, (x.size(-1),), eps=1e-6)  # by the root mean square of the last dimension, no weights
WATCH: list[Callable[[Tensor, tuple[Tensor, ...]], None]] = []  # told the input of every product: second_moments puts itself here
def linear(x: Tensor, *weights: Tensor, scale: Tensor | None = None) -> Tensor:
    """x times each of some matrices, side by side, and times `scale` (outputs,), folded into the matrix: so it costs no pass over the
    activations, forward or backward. Weights live in float32 and are cast to the type of the activations at use."""
    for watch in WATCH: watch(x, weights)
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    return F.linear(x, (weight if scale is None else scale[:, None] * weight).to(x.dtype))
def behind(x: Tensor, reach: int, learner: Learner | None) -> Tensor:
    """x (B, T, …); for a learner with up to `reach` positions (0: all it keeps) of its stream in front, as they were when read."""
    if learner is None: return x
    if learner.kept: x = torch.cat((learner.kept[len(learner.left)], x), 1)  # the calls of a pass have a place each in these lists
    learner.left.append(x[:, max(0, x.size(1) - min(reach or learner.context, learner.context)) :].detach())
    return x
def convolve(x: Tensor, taps: Tensor, learner: Learner | None) -> Tensor:
    """Short causal convolution: each of (B, T, D) gets shares `taps` (reach, D) of those before it, a filter a channel (Canon layers,
    arXiv:2512.17351). Rolled after the product, so that no rolled copy is kept; masked, as padding would be a CUDA kernel more."""
    T, x = x.size(1), behind(x, len(taps), learner)
    left = torch.arange(x.size(1), 0, -1, device=x.device)[:, None]  # tokens from here to the end
    return (x + sum(torch.roll(tap * x * (left > back), back, 1) for back, tap in enumerate(taps.to(x.dtype), 1)))[:, -T:]
def rotary_table(first: int, length: int, head_dim: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles from position `first` on, (length, 1, head_dim / 2) each (RoFormer, arXiv:2104.09864)."""
    angle = torch.outer(first + torch.arange(length).double(), base ** -(torch.arange(0, head_dim, 2).double() / head_dim))[:, None]
    return angle.cos().float().to(device), angle.sin().float().to(device)
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head, a and b, by its position: (…, head_dim) -> a cos - b sin, b cos + a sin."""
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)  # b, a; a `cat` of rotated halves takes two CUDA kernels more
    return x * torch.cat((cos, cos), -1) + swapped * torch.cat((-sin, sin), -1)
def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention of the last T positions, (B, heads, T, head_dim); in a window, each sees itself and the window - 1 before it."""
    T, S, scale = q.size(2), k.size(2), q.size(3) ** -0.5
    if not q.is_cuda or q.dtype is torch.float32 or S > min(T, window or T):  # only CUDA's fast kernel for bf16 without masks has groups
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
    if S > T:
        return F.scaled_dot_product_attention(q, k, v, torch.ones(T, S, device=q.device).tril(S - T).triu(S - T + 1 - (window or S)).bool())
    if window and T > window:  # blocks of queries, each with the keys of the block before it and its own: query i sees i + 1 to i + window
        first = attend(q[:, :, :window], k[:, :, :window], v[:, :, :window], 0)
        q, k, v = (F.pad(x, (0, 0, 0, -T % window)) for x in (q[:, :, window:], k, v))
        blocks = [x.unfold(2, n * window, window).movedim(2, 1).mT.flatten(0, 1) for x, n in ((q, 1), (k, 2), (v, 2))]  # (blocks, H, nW, d)
        y = F.scaled_dot_product_attention(*blocks, torch.ones(window, 2 * window, dtype=torch.bool, device=q.device).tril(window).triu(1))
        return torch.cat((first, y.unflatten(0, (len(q), -1)).movedim(1, 2).flatten(2, 3)), 2)[:, :, :T]
    if not q.is_cuda and q.dtype is torch.bfloat16 and T <= 256:  # so short, plain products beat PyTorch's fused kernel
        return (q @ k.mT * scale).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.size(1) != q.size(1))

class Attention(nn.Module):
    """Causal attention with grouped key/value heads, normed queries and keys, and a learned gain per query head. With `key_shift` the
    slowly rotated half of each key is that of the token before, so that one block can find what followed an earlier copy of a token."""
    def __init__(self, s: Settings):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.window = s.NUM_HEADS, s.NUM_KV_HEADS, s.MODEL_DIM // s.NUM_HEADS, s.ATTN_WINDOW
        self.key_shift, kv_dim = s.KEY_SHIFT, self.kv_heads * self.head_dim
        self.q, self.out = (nn.Parameter(torch.empty(s.MODEL_DIM, s.MODEL_DIM)) for _ in range(2))
        self.k, self.v = (nn.Parameter(torch.empty(kv_dim, s.MODEL_DIM)) for _ in range(2))
        self.q_gain = nn.Parameter(torch.full((s.NUM_HEADS,), s.QK_GAIN_INIT))
        if s.HEAD_GATE: self.gate = nn.Parameter(torch.zeros(s.NUM_HEADS, min(s.HEAD_GATE, s.MODEL_DIM)))
        if s.VALUE_EMBED: self.value_scale = nn.Parameter(torch.ones(self.kv_heads, self.head_dim))
    def forward(self, x: Tensor, values: Tensor | None, angles: Sequence, scale: Tensor, learner: Learner | None = None) -> Tensor:
        B, T, D = x.shape
        heads = linear(x, self.q, self.k, self.v).view(B, T, -1, self.head_dim)  # one product, not three
        qk, v = heads.split((self.heads + self.kv_heads, self.kv_heads), 2)  # (B, T, H, head_dim)
        if values is not None: v = v + self.value_scale.to(x.dtype) * values.view(v.shape)  # value embedding, as in nanoGPT speed runs
        if self.key_shift:
            qk = behind(qk, 1, learner)
            at, head, channel = (torch.arange(n, device=x.device) for n in qk.shape[1:])
            late = (at > 0)[:, None, None] & (head >= self.heads)[:, None] & (channel % (self.head_dim // 2) >= self.head_dim // 4)
            qk = torch.where(late, torch.roll(qk, 1, 1), qk)[:, -T:]
        gain = F.pad(self.q_gain, (0, self.kv_heads), value=1.0).to(x.dtype).expand(B, T, -1)[..., None]  # backward sums by rows
        q, k = rotate(norm(qk) * gain, *angles).split((self.heads, self.kv_heads), 2)
        k, v = behind(k, self.window, learner), behind(v, self.window, learner)
        y = attend(*(z.transpose(1, 2) for z in (q, k, v)), self.window).transpose(1, 2)  # (B, T, H, head_dim)
        if hasattr(self, "gate"): y = y * 2 * F.linear(x[..., : self.gate.size(1)], self.gate.to(x.dtype)).sigmoid()[..., None]
        return linear(y.reshape(B, T, D), self.out, scale=scale)

class MLP(nn.Module):
    """Two matrices with a squared, perhaps leaky, ReLU between them (Primer, arXiv:2109.08668)."""
    def __init__(self, s: Settings):
        super().__init__()
        self.up = nn.Parameter(torch.empty(s.MLP_MULT * s.MODEL_DIM, s.MODEL_DIM))
        self.down, self.leak = nn.Parameter(torch.empty(s.MODEL_DIM, s.MLP_MULT * s.MODEL_DIM)), s.MLP_LEAK
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return linear(F.leaky_relu(linear(x, self.up), self.leak).square(), self.down, scale=scale)

class Block(nn.Module):
    """Mixes the stream with the embedding (`mix`), then adds attention and MLP, each with a scale per channel."""
    def __init__(self, s: Settings):
        super().__init__()
        self.attn, self.mlp = Attention(s), MLP(s)
        self.attn_scale, self.mlp_scale = (nn.Parameter(torch.ones(s.MODEL_DIM)) for _ in range(2))
        self.mix = nn.Parameter(torch.stack((torch.ones(s.MODEL_DIM), torch.zeros(s.MODEL_DIM))))
        if s.CONV_TAPS: self.attn_conv, self.mlp_conv = (nn.Parameter(torch.zeros(s.CONV_TAPS, s.MODEL_DIM)) for _ in range(2))
    def forward(self, x: Tensor, x0: Tensor, values: Tensor | None, angles: Sequence, learner: Learner | None) -> Tensor:
        mix = self.mix.to(x.dtype)
        x = mix[0] * x + mix[1] * x0
        h = convolve(norm(x), self.attn_conv, learner) if hasattr(self, "attn_conv") else norm(x)
        x = x + self.attn(h, values, angles, self.attn_scale, learner)
        h = convolve(norm(x), self.mlp_conv, learner) if hasattr(self, "mlp_conv") else norm(x)
        return x + self.mlp(h, self.mlp_scale)

class GPT(nn.Module):
    """Tied-embedding GPT. The second half of the blocks gets the outputs of the first half back, last one first (U-Net skips)."""
    def __init__(self, s: Settings, runtime: Runtime):
        super().__init__()
        self.softcap, self.dtype = s.LOGIT_SOFTCAP, runtime.dtype
        self.embed = nn.Parameter(torch.empty(s.VOCAB_SIZE, s.MODEL_DIM))
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.NUM_LAYERS))
        if s.BIGRAM_ROWS:
            self.bigram = nn.Parameter(torch.empty(s.BIGRAM_ROWS, s.BIGRAM_DIM))
            self.bigram_up = nn.Parameter(torch.empty(s.MODEL_DIM, s.BIGRAM_DIM))
        if s.VALUE_EMBED: self.value_embed = nn.Parameter(torch.empty(s.VOCAB_SIZE, s.NUM_KV_HEADS * s.MODEL_DIM // s.NUM_HEADS))
        if s.SMEAR: self.smear = nn.Parameter(torch.zeros(s.MODEL_DIM))
        self.skips = nn.Parameter(torch.ones(s.NUM_LAYERS // 2, s.MODEL_DIM))
        self.to(runtime.device).eval()  # training alone switches on what nn.Dropout and its like do: Stepper.launch
        self.rotary = lambda first, length: rotary_table(first, length, s.MODEL_DIM // s.NUM_HEADS, s.ROPE_BASE, runtime.device)
        self.first_angles = self.rotary(0, max(s.TRAIN_SEQ_LEN, s.EVAL_SEQ_LEN, *map(int, re.findall(r"\d+", s.EVAL_SEQ_SWEEP))))
    def hidden(self, tokens: Tensor, learner: Learner | None = None) -> Tensor:
        """(B, T) token ids -> (B, T, D), normed, ready for the head. For a learner, a row (1, T) that follows those it has learned from."""
        if learner: learner.left = []
        skips, x = self.skips.to(self.dtype), F.embedding(tokens, self.embed).to(self.dtype)
        if hasattr(self, "bigram"):  # large odd factors spread the pairs
            pair = (F.pad(behind(tokens, 1, learner), (1, 0))[:, -tokens.size(1) - 1 : -1] * 36313 ^ tokens * 27191) % len(self.bigram)
            x = norm(x) + linear(F.embedding(pair, self.bigram).to(self.dtype), self.bigram_up)
        if hasattr(self, "smear"): x = torch.where((tokens != BOS)[..., None], convolve(x, self.smear[None], learner), x)
        values = F.embedding(tokens, self.value_embed).to(self.dtype) if hasattr(self, "value_embed") else None
        x = x0 = norm(x)
        angles = self.rotary(learner.at, x.size(1)) if learner else self.first_angles
        angles, saved = [z[: x.size(1)].to(x.dtype) for z in angles], []
        for i, block in enumerate(self.blocks):
            if saved and i >= len(skips): x = x + skips[len(saved) - 1] * saved.pop()  # the first time its own input
            x = block(x, x0, values, angles, learner)
            if i < len(skips): saved.append(x)
        return norm(x)
    def logits(self, tokens: Tensor, last: int, learner: Learner | None = None) -> Tensor:
        """Capped logits of the last `last` positions of each row: (B, T) -> (B, last, V) float32."""
        logits = linear(self.hidden(tokens, learner)[:, -last:], self.embed).float()
        return self.softcap * torch.tanh(logits / self.softcap)
    def nats(self, tokens: Tensor, targets: Tensor, last: int, learner: Learner | None = None) -> Tensor:
        """Cross-entropy of the last `last` targets of each row: (B, T), (B, T) -> (B * last,) float32."""
        return F.cross_entropy(self.logits(tokens, last, learner).flatten(0, 1), targets[:, -last:].flatten(), reduction="none")
    def weights(self) -> dict[str, np.ndarray]: return {n: p.detach().float().cpu().numpy().copy() for n, p in self.named_parameters()}
    @torch.no_grad()
    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Copy weights in by name. Raises UserError unless names and shapes are exactly the model's."""
        mine = dict(self.named_parameters())
        if odd := sorted({(n, tuple(p.shape)) for n, p in mine.items()} ^ {(n, w.shape) for n, w in weights.items()}):
            raise UserError(f"the weights do not fit the model these settings build: {odd[:4]}; does LATER_KEYS lack a setting?")
        for name, p in mine.items(): p.copy_(torch.from_numpy(np.array(weights[name])))
@torch.no_grad()
def second_moments(model: GPT, rows: np.ndarray) -> dict[str, np.ndarray]:
    """For round_to_grid, by name, the sum of x x^T over inputs x on rows (n, T + 1) of each matrix that `linear` gets as it is: (c, c)."""
    names, sums, at_once = {id(p): name for name, p in model.named_parameters()}, {}, max(1, 8192 // max(1, rows.shape[-1]))
    def watch(x: Tensor, weights: tuple[Tensor, ...]) -> None:
        added = (flat := x.flatten(0, -2).float()).mT @ flat
        for name in (names[id(w)] for w in weights if id(w) in names): sums[name] = sums.get(name, 0) + added
    WATCH.append(watch)
    try:
        for i in range(0, len(rows), at_once):
            model.logits(torch.from_numpy(rows[i : i + at_once, :-1]).long().to(model.embed.device), rows.shape[1] - 1)
    finally: WATCH.clear()
    return {name: total.cpu().numpy() for name, total in sums.items()}
def squared_gradients(model: GPT, rows: np.ndarray) -> dict[str, float]:
    """For balanced_steps, the mean square of each tensor's gradient, summed over the rows (n, T + 1), by name."""
    sums = {name: torch.zeros((), device=p.device) for name, p in model.named_parameters() if p.numel()}
    for row in torch.from_numpy(rows).long().to(model.embed.device)[:, None]:
        model.nats(row[:, :-1], row[:, 1:], row.size(1) - 1).mean().backward()
        for name, total in sums.items(): total += 0 if (grad := model.get_parameter(name).grad) is None else grad.square().mean()
        model.zero_grad()
    return {name: float(total) for name, total in sums.items()}
# Optimizer ============================================================================================================
def orthogonalize(g: Tensor, steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Quintic Newton-Schulz iteration, rough types will do, towards U V^T of each matrix of (n, r, c) (Jordan et al., Muon, 2024)."""
    x = (g.mT if (tall := g.size(-2) > g.size(-1)) else g).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(g.dtype)

class Optimizer:
    """Muon for the role matrix, stacked over equal shapes; Adam for the rest, with a learning rate per role."""
    def __init__(self, model: GPT, s: Settings, runtime: Runtime):
        self.s, self.model, self.stacks, self.adam, self.runtime = s, model, {}, {}, runtime
        self.params = {name: p for name, p in model.named_parameters() if p.numel()}  # a single block has no skips
        for name, p in self.params.items():
            if role_of(name) == "matrix": self.stacks.setdefault(tuple(p.shape), []).append(name)
            else: self.adam.setdefault(role_of(name), []).append(name)
        # The live state by name, updated in place: what a checkpoint holds beside the weights
        self.state = {f"momentum/{r}x{c}": torch.zeros(len(names), r, c, device=runtime.device) for (r, c), names in self.stacks.items()}
        self.state |= {f"{m}/{n}": torch.zeros_like(self.params[n]) for m in ("first", "second") for n in sum(self.adam.values(), [])}
        self.orthogonalize = torch.compile(self.orthogonalize_stacks, dynamic=False) if runtime.compile else self.orthogonalize_stacks
    @staticmethod
    def orthogonalize_stacks(stacks: list[Tensor], steps: int, dtype: torch.dtype, as_one: bool) -> list[Tensor]:
        """orthogonalize each stack (n, r, c); `as_one`: filled up with zeros, which stay, to one: far fewer kernels on a GPU."""
        if not as_one: return [orthogonalize(g, steps, dtype) for g in stacks]
        wide = [g.mT if g.size(1) > g.size(2) else g for g in stacks]
        rows, columns = (max(x.size(i) for x in wide) for i in (1, 2))
        whole = orthogonalize(torch.cat([F.pad(x, (0, columns - x.size(2), 0, rows - x.size(1))) for x in wide]), steps, dtype)
        parts = [part[:, : x.size(1), : x.size(2)] for part, x in zip(whole.split([len(x) for x in wide]), wide)]
        return [part.mT if g.size(1) > g.size(2) else part for part, g in zip(parts, stacks)]
    @torch.no_grad()
    def step(self, step: int, lr_scale: float) -> None:
        """One update from the gradients, which are then cleared. `step` counts from 0."""
        s, mu, lr, pushes = self.s, muon_momentum(self.s, step), self.s.MATRIX_LR * lr_scale, []
        if s.GRAD_CLIP_NORM: nn.utils.clip_grad_norm_(self.params.values(), s.GRAD_CLIP_NORM, foreach=True)
        for shape, names in self.stacks.items():
            grad = torch.stack([self.params[n].grad for n in names])
            pushes.append(grad.lerp_(self.state[f"momentum/{shape[0]}x{shape[1]}"].lerp_(grad, 1 - mu), mu))  # Nesterov
        updates = self.orthogonalize(pushes, s.MUON_NS_STEPS, self.runtime.dtype, self.runtime.cuda)
        for (shape, names), update in zip(self.stacks.items(), updates):
            weights = [self.params[n] for n in names]
            torch._foreach_mul_(weights, 1 - lr * s.MUON_WEIGHT_DECAY)
            torch._foreach_add_(weights, list(update.unbind()), alpha=-lr * max(1.0, shape[0] / shape[1]) ** 0.5)
        for role, names in self.adam.items():
            weights = [self.params[n] for n in names]
            first, second = ([self.state[f"{which}/{n}"] for n in names] for which in ("first", "second"))
            counts = list(torch.full((len(names),), float(step), device=weights[0].device).unbind())  # where the fused kernel wants them
            adam(weights, [w.grad for w in weights], first, second, [], counts, fused=True, amsgrad=False, maximize=False, weight_decay=0.0,
                 beta1=s.ADAM_BETA1, beta2=s.ADAM_BETA2, eps=s.ADAM_EPS, lr=(s.VECTOR_LR if role == "vector" else s.EMBED_LR) * lr_scale)
        self.model.zero_grad(set_to_none=True)
# Schedule =============================================================================================================
# shared: begin schedule
def lr_scale(s: Settings, step: int, progress: float) -> float:
    """Share of the full learning rates: a rise over WARMUP_STEPS, then flat, then a line down to 0 over WARMDOWN_FRAC."""
    return min(1.0, (step + 1) / (s.WARMUP_STEPS + 1)) * min(1.0, (1.0 - progress) / s.WARMDOWN_FRAC if s.WARMDOWN_FRAC else 1.0)
def muon_momentum(s: Settings, step: int) -> float:
    share = min(1.0, step / s.MUON_MOMENTUM_WARMUP_STEPS) if s.MUON_MOMENTUM_WARMUP_STEPS else 1.0
    return s.MUON_MOMENTUM_START + share * (s.MUON_MOMENTUM - s.MUON_MOMENTUM_START)
def progress_of(s: Settings, step: int, train_seconds: float, reserve_seconds: float) -> float:
    """How much of the budget is used, 0 to 1: by the clock (less what the export will need) or by steps, whichever is further."""
    by_clock = train_seconds / max(s.MAX_WALLCLOCK_SECONDS - reserve_seconds, 1e-9) if s.MAX_WALLCLOCK_SECONDS else 0.0
    return min(1.0, max(step / s.ITERATIONS if s.ITERATIONS else 0.0, by_clock))
# shared: end schedule
# Scoring windows ======================================================================================================
# shared: begin windows
def score_windows(n_targets: int, seq_len: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Sliding windows (start, end, first_scored) over a stream of n_targets + 1 tokens, that score every position once.
    A window reads tokens[start:end] and scores positions first_scored … end - 1, the target of position i being tokens[i + 1].
    All are equally long: the last one moves back to end with the stream, so none is padded."""
    length = min(seq_len, n_targets)
    yield 0, length, 0
    for scored in range(length, n_targets, stride):
        end = min(scored + stride, n_targets)
        yield end - length, end, scored
def window_batches(n_targets: int, seq_len: int, stride: int, max_windows: int) -> list[tuple[np.ndarray, int, int]]:
    """Windows in groups of at most max_windows that score as many targets each: (starts, length, scored at the end of each)."""
    groups: list[tuple[list[int], int, int]] = []
    for start, end, first in score_windows(n_targets, seq_len, stride):
        if groups and groups[-1][2] == end - first and len(groups[-1][0]) < max_windows: groups[-1][0].append(start)
        else: groups.append(([start], end - start, end - first))
    return [(np.array(starts), length, last) for starts, length, last in groups]
# shared: end windows
# Cache of what the stream has said ====================================================================================
# shared: begin cache
CACHE_LATEST, CACHE_FAR, CACHE_OWN = 8, 8 ** np.arange(1, 6), 4  # places that count; steps of distance; lengths looked up by document too
CACHE_KINDS = 3 * 6 * 2 * (CACHE_LATEST + 1)  # do they agree, how far back, in this document, how many; 0: nothing found
CACHE_TOLD, CACHE_CELLS = CACHE_KINDS + 2048, CACHE_KINDS + 2048 + 10 + 4  # a row's numbers: kinds, last tokens and finds modulo 1024, told
def context_hashes(tokens: np.ndarray, documents: np.ndarray, orders: int) -> np.ndarray:
    """Hashes of the last 1, 2, … `orders` tokens, then of up to CACHE_OWN and the document: (orders + min(orders, CACHE_OWN), n) uint64."""
    hashes, terms = np.outer(np.arange(orders + 1), np.arange(len(tokens))).astype(np.uint64), tokens.astype(np.uint64) + np.uint64(1)
    for i in range(orders): hashes[i + 1, i:] = (hashes[i, i:] + terms[: max(0, len(terms) - i)]) * np.uint64(0x9E3779B97F4A7C15)
    return np.concatenate((hashes[1:], hashes[1 : CACHE_OWN + 1] + documents.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)))
def last_copies(hashes: np.ndarray) -> np.ndarray:
    """Where each hash stood last before, -1 for nowhere: (n,) -> (n,)."""
    order, before = np.argsort(hashes, kind="stable"), np.full(len(hashes), -1)
    before[order[1:]] = np.where(hashes[order[1:]] == hashes[order[:-1]], order[:-1], -1)
    return before
def cache_finds(tokens: np.ndarray, documents: np.ndarray, before: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, ...]:
    """At positions `at`, what followed the latest copies of their context, linked by `before`: tokens, -1 for none, and their shares,
    (CACHE_LATEST, n) both, and what the weight depends on, (3, n) cells of CACHE_CELLS. `documents` numbers the document of each token."""
    place, found = before[at], []
    far, same = np.digitize(at - place, CACHE_FAR), documents[place] == documents[at]
    for _ in range(CACHE_LATEST):
        found.append(np.where(place >= 0, tokens[place + 1], -1))
        place = np.where(place >= 0, before[place], -1)
    found, rank, shape = np.stack(found), np.arange(1, CACHE_LATEST + 1)[:, None], (CACHE_LATEST + 1, 3, 6, 2)
    shares = (found >= 0) / rank / np.maximum(((found >= 0) / rank).sum(0), 1e-9)  # a later one has more to say
    agree = (shares * (found == found[0])).sum(0)
    kind = np.where(found[0] >= 0, np.ravel_multi_index(((found >= 0).sum(0), 2 - np.digitize(agree, (0.5, 0.999)), far, same), shape), 0)
    return found, shares, np.stack((kind, CACHE_KINDS + tokens[at] % 1024, CACHE_KINDS + 1024 + found[0] % 1024))
def cells_told(cells: np.ndarray, p: np.ndarray, finds: np.ndarray) -> np.ndarray:
    """Cells (rows, 3, n) -> (rows, 5, n), with how well the target before was told: by p (n,), in nats; by the best of finds (rows, n)."""
    told = CACHE_TOLD + np.stack((np.minimum(-np.log(p), 9), 10 + np.rint(3 * finds.max(0)))).astype(np.int64)
    return np.concatenate((cells, np.broadcast_to(told, (len(cells), *told.shape))), 1)

class Cache:
    """Mixes what a model predicts with what followed the same last tokens before in the stream (unbounded cache, arXiv:1711.02604):
    (p + sum of w find) / (1 + sum of w) over the finds of all rows, which are distributions, so that the mixture is one. Each w is
    the exponential of five learned numbers, by gradient steps on scores that are final: no token at or after a target has a say in it."""
    def __init__(self, rows: int):
        self.before, start = (np.ones(1), np.zeros((rows, 1))), np.where(np.arange(CACHE_CELLS) < CACHE_KINDS, -2.5, 0.0)
        self.gates, self.squares = np.tile(start, (rows, 1)), np.full((rows, CACHE_CELLS), 1e-3)
    def mix(self, p: np.ndarray, finds: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities by the model (…, n), by finds (rows, …, n), cells (rows, 5, n) -> shares (rows, n), the mixture (…, n)."""
        weights = (cells[:, 0] > 0) * np.exp(np.stack([gates[x].sum(0) for gates, x in zip(self.gates, cells)]))
        total = 1 + weights.sum(0)
        return weights / total, (p + np.einsum("on,o...n->...n", weights, finds)) / total
    def learn(self, p: np.ndarray, finds: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score the next targets, then take an AdaGrad step on the gates: nats (n,), and the model's part in each mixture (n,)."""
        told = [np.concatenate(x, -1) for x in zip(self.before, (p, finds))]  # `before`: of the target before the first
        self.before, cells = [x[..., -1:] for x in told], cells_told(cells, *(x[..., :-1] for x in told))
        shares, mixed = self.mix(p, finds, cells)
        push = np.stack([np.bincount(x.ravel(), np.tile(y, len(x)), CACHE_CELLS) for x, y in zip(cells, shares * (finds / mixed - 1))])
        self.squares += push**2
        self.gates += 0.35 * push / np.sqrt(self.squares)
        return -np.log(mixed), p * (1 - shares.sum(0)) / mixed
def cache_beside(tokens: np.ndarray, orders: int) -> Callable[[np.ndarray, slice], tuple[np.ndarray, np.ndarray]]:
    """A cache for a stream (n + 1,), its finds looked up ahead: learn(a model's nats (n,), the targets to score next) is Cache.learn."""
    if not orders: return lambda nats, z: (nats, np.ones_like(nats))  # no cache: the scores are the model's, and its part in each is all
    tokens, documents, n = tokens.astype(np.int64), np.cumsum(tokens == BOS), len(tokens) - 1
    def look_up(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, shares, cells = cache_finds(tokens, documents, last_copies(hashes), np.arange(n))
        return (shares * (found == tokens[1:])).sum(0), cells.astype(np.int16)
    finds, cells = (np.stack(x) for x in zip(*map(look_up, context_hashes(tokens[:-1], documents[:n], orders))))
    cache = Cache(len(finds))
    return lambda nats, z: cache.learn(np.exp(-nats.astype(np.float64)), finds[:, z], cells[..., z])
def score_learning(learner: Learner, tokens: np.ndarray, s: Settings, log: Log, label: str, seq_len: int, stride: int) -> np.ndarray:
    """score() where the model learns from each window once it is scored; it gets its weights back at the end."""
    nats, weights, mix = np.zeros(len(tokens) - 1, np.float32), learner.model.weights(), cache_beside(tokens, s.NGRAM_CACHE)
    with log.progress(label, len(nats), "tokens") as bar:
        for _, end, first in score_windows(len(nats), seq_len, stride):
            nats[first:end] = learner.learn(tokens[first : end + 1], lambda own, z=slice(first, end): mix(own, z))
            bar(end - first)
    learner.model.load_weights(weights)
    return nats
# shared: end cache
class Learner(torch.optim.Adam):
    """Test-time training: steps against the gradient over its root mean square, damped by `eps` (dynamic evaluation, arXiv:1709.07432).
    Of what each step moves, the share of `lr` lasts, and that of `doc_lr` is taken back when the document ends. Each row is read once: what
    `behind` looks back at is `kept`, of up to `context` tokens, as it was then; `left` is what the row read last would keep."""
    def __init__(self, model: GPT, lr: float, doc_lr: float, context: int):
        super().__init__([p for p in model.parameters() if p.numel()], lr + doc_lr, (0.0, 0.99), 0.001, fused=True)
        self.model, self.weights, self.share = model, [p.data for p in model.parameters() if p.numel()], lr / (lr + doc_lr)
        self.lasting, self.context, self.at, self.kept, self.left = [w.clone() for w in self.weights], context, 0, [], []
    def learn(self, row: np.ndarray, mix: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Score the targets of the row that follows those learned from, tokens (n + 1,), then learn from them: the mixture's nats, (n,).
        `mix` gives these, and the model's part in each mixture, as the cache knows the rest, from the model's nats."""
        ids = torch.from_numpy(row[None].astype(np.int64)).to(self.model.embed.device)
        nats = self.model.nats(ids[:, :-1], ids[:, 1:], len(row) - 1, self)
        mixed, own = mix(nats.detach().cpu().numpy())
        before, starts = [w.clone() for w in self.weights], np.flatnonzero((row[:-1] == BOS) & (self.share < 1))  # of documents
        own = own * (np.arange(len(own)) >= starts.max(initial=0))  # only from the document that goes on
        torch.use_deterministic_algorithms(True, warn_only=True)  # else a GPU adds up in another order, and scores otherwise, each time
        torch.utils.deterministic.fill_uninitialized_memory = False  # it would be filled for nothing: a kernel for each tensor made
        (nats * torch.from_numpy(own).to(nats)).mean().backward()
        torch.use_deterministic_algorithms(False)
        self.step()
        self.zero_grad()
        moved = torch._foreach_sub(self.weights, before)
        if len(starts): torch._foreach_copy_(self.weights, torch._foreach_add(self.lasting, moved))
        torch._foreach_add_(self.lasting, moved, alpha=self.share)
        self.at, self.kept = self.at + len(own), self.left
        return mixed
COMPILE_ABOVE = 256  # score() compiles for more batches than this: fewer are done sooner without. The referee goes by it too
def score(model: GPT, tokens: np.ndarray, s: Settings, r: Runtime, log: Log, label: str, seq_len: int, stride: int, ttt=0.0) -> np.ndarray:
    """Nats of every target of a stream of n + 1 tokens, each scored once, beside the cache: (n,) float32. With `ttt`, the model learns
    from each window once it is scored, at that rate, uncompiled as the referee does."""
    if ttt: return score_learning(Learner(model, ttt, s.TTT_DOC_LR, seq_len - stride), tokens, s, log, label, seq_len, stride)
    n, nats = len(tokens) - 1, np.zeros(len(tokens) - 1, np.float32)
    batches = window_batches(n, seq_len, stride, max(1, s.EVAL_BATCH_TOKENS // min(seq_len, n)))
    stream, mine = torch.from_numpy(tokens.astype(np.int64)).to(r.device), batches[r.rank :: r.world]
    usual = (len(batches[len(batches) // 2][0]), stride)  # the shape of nearly all batches; others are not worth a compilation
    compiled = torch.compile(model.nats, dynamic=False) if r.compile and r.cuda and len(batches) > COMPILE_ABOVE else None
    if compiled: torch._dynamo.config.suppress_errors = True  # what fails to compile is scored without
    with log.progress(label, sum(len(starts) * last for starts, _, last in mine), "tokens") as bar, torch.inference_mode():
        for starts, length, last in mine:
            rows = torch.from_numpy(positions := starts[:, None] + np.arange(length)).to(r.device)
            nats_of = compiled if compiled and (len(starts), last) == usual else model.nats
            nats[positions[:, -last:]] = nats_of(stream[rows], stream[rows + 1], last).view(-1, last).cpu().numpy()
            bar(len(starts) * last)
    if r.world > 1: dist.all_reduce(torch.from_numpy(nats), group=r.control)  # each position is scored by one rank and 0 elsewhere
    mix = cache_beside(tokens, s.NGRAM_CACHE)
    for _, end, first in score_windows(n, seq_len, stride): nats[first:end], _ = mix(nats[first:end], slice(first, end))
    return nats
# Artifact: encode and decode ==========================================================================================
# shared: begin artifact
# Layout (docs/artifact_format.md): prefix | header, JSON in zlib | payload, compressed by the codec.
ARTIFACT_PREFIX = struct.Struct("<4sBBHIIQI")  # magic, version, codec, 0, header bytes, payload bytes, raw payload bytes, crc32 of raw
ARTIFACT_MAGIC, CODECS = b"PGLA", ("zlib", "zstd", "rans")  # version 1 knows neither rans nor tensors of 0 bits
MAX_HEADER_BYTES, MAX_RAW_BYTES, MAX_TENSORS = 1 << 20, 1 << 28, 10_000  # bounds for decoding what strangers send
RANS_LANES, RANS_TABLES, RANS_LOW, MAX_RANS_BYTES = 64, 64, 1 << 24, 1 << 25
class ArtifactError(UserError): """The bytes are not a whole, valid artifact."""
def quantize_rows(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(r, c) float32 -> scales (r,) float16, symbols (r, c) int8, w ~ scale * symbol; each row's clip has the least squared error."""
    top, row = 2 ** (bits - 1) - 1, np.arange(len(w))
    clips = (np.linspace(1.0, 0.5, 11 if bits < 8 else 1) / top).astype(np.float32)[:, None, None]
    scales = np.maximum(np.abs(w).max(1, keepdims=True) * clips, 6.2e-5).astype(np.float16)  # the least normal float16 bounds it below
    symbols = np.clip(np.rint(w / scales.astype(np.float32)), -top, top)  # (clips, r, c)
    best = np.square(w - symbols * scales.astype(np.float32)).sum(2).argmin(0)
    return scales[best, row, 0], symbols[best, row].astype(np.int8)
def grid_step(w: np.ndarray, step: float) -> np.float32:
    """QUANT=step: the step of a matrix, from one in root mean squares of its weights: float16(step * sqrt(mean(w^2))), at least 6.2e-5."""
    return np.float32(np.float16(min(max(6.2e-5, step * math.sqrt(np.square(w, dtype=np.float64).sum() / max(1, w.size))), 65_000.0)))
def round_to_grid(w: np.ndarray, step: np.float32, hessian: np.ndarray | None, lean: float = 0.0) -> np.ndarray:
    """(r, c) -> (r, c) int16, so that w x errs least over inputs x with hessian ~ sum of x x^T, (c, c); None: rounded one by one.
    Up to `lean` steps past the half still goes towards 0: fewer bits. A DEAD_ZONE of sqrt(2) / 12 is best for Laplacian w."""
    def nearest(x: np.ndarray) -> np.ndarray: return np.clip(np.sign(x) * np.ceil(np.abs(x / step) - np.float32(0.5 + lean)), -32767, 32767)
    if hessian is None: return nearest(w).astype(np.int16)
    h = hessian.astype(np.float64)  # damped by 0.05 of its mean diagonal: anything from 0.01 to 0.3 is as good (docs/experiments/bytes.md)
    lower = np.linalg.cholesky(np.linalg.inv(h + (0.05 * np.trace(h) / len(h) + 1e-12) * np.eye(len(h)))).astype(np.float32)
    error, rounded = np.empty(w.T.shape, np.float32), np.empty(w.T.shape, np.int16)
    for i, column in enumerate(np.ascontiguousarray(w.T)):  # GPTQ (arXiv:2210.17323): make good what rounding has done so far
        want = column - lower[i, :i] @ error[:i]
        rounded[i] = whole = nearest(want)
        error[i] = (want - step * whole) / lower[i, i]
    return rounded.T
def bits_of(s: Settings, name: str) -> int:
    """Bits of a tensor's weights: 16 for float16, as of vectors and roles of your own, 0 for whole multiples of one step."""
    clip = s.QUANT == "clip"
    return {"matrix": clip * s.BITS_MATRIX, "table": clip * s.BITS_MATRIX, "embed": clip * s.BITS_EMBED}.get(role_of(name), 16)
def known_tensor(shape: list | tuple, bits: int) -> bool:
    """Whether an artifact can hold it: float16 of up to 4 dimensions, or a matrix of 2 to 8 bits or of whole multiples of one step."""
    return len(shape) <= 4 and (bits == 16 or (len(shape) == 2 and (bits == 0 or 2 <= bits <= 8)))
def sections(tensors: list) -> list[tuple[str, int, int]]:
    """(type, rows, columns) of the payload of [(name, shape, bits)]: of each tensor its float16 as pairs of bytes, then its symbols."""
    parts = []
    for _, shape, bits in tensors:
        parts.append(("u1", math.prod(shape) if bits == 16 else shape[0] if bits else 1, 2))
        if bits < 16: parts.append(("i1" if bits else "<i2", *shape))
    return parts
def rans_encode(raw: bytes, parts: list) -> bytes:
    """Interleaved rANS (arXiv:1311.2540, 1402.3392): symbol i goes through lane i modulo RANS_LANES, in words of 2 bytes."""
    at, scales, values, table = 0, b"", [], []
    for kind, rows, columns in parts:
        a = np.frombuffer(raw, kind, rows * columns, at).reshape(rows, columns)
        at += a.nbytes
        values.append(a.ravel())
        power = np.square(a, dtype=np.float32) + np.float32(0.002)
        own = kind != "u1" and a.size  # bytes of float16 values have tables 0 and 1, the others one for each half octave of their size
        pair = (np.log2(power.mean(1)) + 16, np.log2(power.mean(0) / power.mean())) if own else (np.zeros(rows), np.arange(columns))
        row, column = (np.rint(x).astype(np.int64).astype(np.uint8) for x in pair)
        scales += row.tobytes() + column.tobytes()
        table.append((row[:, None] + column).ravel() % RANS_TABLES)
    table, values = (np.concatenate(x).astype(np.int64) for x in (table, values))
    low, width = values.min(initial=0), int(values.max(initial=0) - values.min(initial=0)) + 1
    entry = table * width + values - low
    n = np.bincount(entry, minlength=RANS_TABLES * width).reshape(RANS_TABLES, width)
    frequency = np.where(n, 1 + n * (65536 - np.count_nonzero(n, 1)[:, None]) // np.maximum(1, n.sum(1))[:, None], 0)
    frequency[np.arange(RANS_TABLES), n.argmax(1)] += 65536 - frequency.sum(1)
    f, before = frequency.ravel(), (np.cumsum(frequency, 1) - frequency).ravel()
    state, words = np.full(RANS_LANES, RANS_LOW, "<i8"), []
    for at in reversed(range(0, len(entry), RANS_LANES)):
        e, x = entry[at : at + RANS_LANES], state[: len(entry) - at]
        full = np.flatnonzero(x >= f[e] * RANS_LOW)
        words.append(x[full].astype("<u2").tobytes())
        x[full] >>= 16
        x[:] = (x // f[e] << 16) + x % f[e] + before[e]
    side = zlib.compress(low.astype("<i4").tobytes() + scales + frequency.astype("<i4").view(np.uint8).reshape(-1, 4).T[:3].tobytes(), 9)
    return len(side).to_bytes(4, "little") + side + state.tobytes() + b"".join(reversed(words))
def rans_decode(data: bytes, parts: list) -> bytes:
    """The payload that rans_encode coded. Raises ValueError or zlib.error on anything else."""
    begin, stream, at, table = 4 + int.from_bytes(data[:4], "little"), zlib.decompressobj(), 4, []
    side = np.frombuffer(stream.decompress(data[4:begin], MAX_RANS_BYTES + 3 * RANS_TABLES * 65536), np.uint8)
    for _, rows, columns in parts:
        table.append((side[at : at + rows, None] + side[at + rows : at + rows + columns]).ravel() % RANS_TABLES)
        at += rows + columns
    frequency = np.tensordot([1, 1 << 8, 1 << 16], side[at:].reshape(3, RANS_TABLES, -1).astype(np.int64), 1)
    if not stream.eof or stream.unused_data or (frequency.sum(1) != 65536).any(): raise ValueError("its tables are cut or do not add up")
    table, f, before = np.concatenate(table), frequency.ravel(), (np.cumsum(frequency, 1) - frequency).ravel()
    slots = np.repeat(np.arange(len(f), dtype=np.int32), f).reshape(RANS_TABLES, 65536)
    state, entries, used = np.frombuffer(data, "<i8", RANS_LANES, begin).copy(), np.empty(len(table), np.int32), 0
    words = np.frombuffer(data[begin + 8 * RANS_LANES :], "<u2").astype(np.int64)
    for at in range(0, len(table), RANS_LANES):
        slot = (x := state[: len(table) - at]) & 0xFFFF
        entries[at : at + RANS_LANES] = e = slots[table[at : at + RANS_LANES], slot]
        x[:] = f[e] * (x >> 16) + slot - before[e]
        short = np.flatnonzero(x < RANS_LOW)
        x[short] = x[short] << 16 | words[used : used + len(short)]
        used += len(short)
    if (state != RANS_LOW).any() or used != len(words): raise ValueError("its lanes do not end where the coder began")
    values = np.split(entries % frequency.shape[1] + side[:4].view("<i4"), np.cumsum([rows * columns for _, rows, columns in parts])[:-1])
    return b"".join(x.astype(kind).tobytes() for x, (kind, _, _) in zip(values, parts))
def compress(raw: bytes, codec: str, parts: list | None = None) -> bytes:
    if codec == "rans": return rans_encode(raw, parts)
    return zlib.compress(raw, 9) if codec == "zlib" else zstandard.ZstdCompressor(level=22).compress(raw)
def decompress(data: bytes, codec: str, size: int, parts: list) -> bytes:
    """Exactly `size` bytes, never more in memory whatever the data claim. Raises ArtifactError."""
    try:
        if codec == "rans": whole, raw = True, rans_decode(data, parts) if size <= MAX_RANS_BYTES else b""
        elif codec == "zlib":
            stream = zlib.decompressobj()
            raw, whole = stream.decompress(data, size + 1), stream.eof and not stream.unused_data
        else:
            whole = zstandard.get_frame_parameters(data).content_size == size
            raw = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(data, allow_extra_data=False) if whole else b""
    except (ValueError, zlib.error, zstandard.ZstdError) as e: raise ArtifactError(f"the {codec} data are damaged: {e}") from None
    if len(raw) != size or not whole:
        raise ArtifactError(f"the {codec} data do not unpack to exactly the {size} bytes that the prefix announces")
    return raw
def pack_tensor(w: np.ndarray, bits: int, s: Settings, step: float = 0.0, hessian: np.ndarray | None = None) -> bytes:
    """float16 for bits 16; else float16 scales and whole numbers: int8 with a scale per row, or for bits 0 int16 with one step."""
    if bits == 16:  # beside rounded matrices, 7 significant bits of 11 are plenty, and zeros cost nothing
        half, kept = (8, 0xFFF0) if s.QUANT == "step" else (0, 0xFFFF)
        return ((w.astype("<f2").view("<u2") + half) & kept).astype("<u2").tobytes()
    w, lean = np.asarray(w, np.float32), min(s.DEAD_ZONE * step, 0.3)
    scales, symbols = quantize_rows(w, bits) if bits else (grid := grid_step(w, step), round_to_grid(w, grid, hessian, lean))
    return scales.astype("<f2").tobytes() + symbols.astype("<i2" if not bits else "i1").tobytes()
def unpack_tensor(raw: np.ndarray, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """The float32 weights that pack_tensor's bytes stand for."""
    parts = sections([(None, shape, bits)])
    scales = np.frombuffer(raw[: 2 * parts[0][1]], "<f2").astype(np.float32)
    if bits == 16: return scales.reshape(shape)
    return scales[:, None] * np.frombuffer(raw[2 * len(scales) :], parts[1][0]).reshape(shape)
def balanced_steps(weights: dict[str, np.ndarray], s: Settings, powers: dict[str, float]) -> dict[str, float]:
    """QUANT=step: the step of each tensor in root mean squares of its weights, STEP_*; shared out anew where squared gradients `powers`
    are known. A step d costs loss like power * d^2 (Fisher information), and log2(d) bits of each weight that is not 0. So the best steps
    go with the root of (share of such weights) / power, within a factor of e^3; their geometric mean over these weights is kept."""
    steps = {n: getattr(s, f"STEP_{role_of(n).upper()}") for n in weights if not bits_of(s, n)}
    alive = {n: np.count_nonzero(np.rint(weights[n] / grid_step(weights[n], steps[n]))) for n in steps if 0 < powers.get(n, 0) < math.inf}
    want = {n: math.log(k / weights[n].size / powers[n]) / 2 - math.log(grid_step(weights[n], steps[n])) for n, k in alive.items() if k}
    mean = math.fsum(alive[n] * x for n, x in want.items()) / max(1, sum(alive.values()))  # fsum: in any order the same
    return steps | {n: steps[n] * math.exp(min(max(x - mean, -3.0), 3.0)) for n, x in want.items()}
def encode_artifact(weights: dict[str, np.ndarray], s: Settings, hessians: dict | None = None, steps: dict | None = None) -> bytes:
    """Quantize and pack weights, with the settings that rebuild the model. Raises UserError on weights that are not finite.
    For QUANT=step, by the names of weights: hessians for round_to_grid, and steps in place of STEP_*."""
    hessians, steps = hessians or {}, steps or balanced_steps(weights, s, {})
    for name, w in weights.items():
        if not np.isfinite(w).all() or np.abs(w).max(initial=0) > 65_000 or not np.isfinite(hessians.get(name, 0)).all():
            raise UserError(f"cannot export {name}: it holds nan, inf or values beyond float16; lower the rates, or start it otherwise")
        if not known_tensor(w.shape, bits := bits_of(s, name)): raise UserError(f"{name} {w.shape}: {bits} bits, not 16 or (matrix) 0, 2-8")
    tensors = [[name, list(w.shape), bits_of(s, name)] for name, w in sorted(weights.items(), key=lambda x: (bits_of(s, x[0]), x[0]))]
    raw = b"".join(pack_tensor(weights[n], b, s, steps.get(n, 0.0), hessians.get(n)) for n, _, b in tensors)
    if len(raw) > (most := MAX_RANS_BYTES if s.CODEC == "rans" else MAX_RAW_BYTES):
        raise UserError(f"the weights take {len(raw)} bytes before CODEC={s.CODEC}, which takes {most}; lower BIGRAM_ROWS or MODEL_DIM")
    header = {"model": {key: getattr(s, key) for key in MODEL_KEYS + LATER_KEYS}, "tensors": tensors}
    header_bytes = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    payload = compress(raw, s.CODEC, sections(tensors))
    version, rest = 1 + (s.QUANT == "step" or CODECS.index(s.CODEC) > 1), (len(header_bytes), len(payload), len(raw), zlib.crc32(raw))
    return ARTIFACT_PREFIX.pack(ARTIFACT_MAGIC, version, CODECS.index(s.CODEC), 0, *rest) + header_bytes + payload
def decode_artifact(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """(model settings, float32 weights by name) of an artifact. Every length is checked before it is used. Raises ArtifactError."""
    if len(data) < ARTIFACT_PREFIX.size:
        raise ArtifactError(f"{len(data)} bytes are too few for an artifact; the file is cut or is something else")
    magic, version, codec, zero, header_size, payload_size, raw_size, crc = ARTIFACT_PREFIX.unpack_from(data)
    if magic != ARTIFACT_MAGIC or version not in (1, 2) or codec >= (2, len(CODECS))[version - 1] or zero:
        raise ArtifactError(f"not an artifact of version 1 or 2: it begins with {data[:8]!r}")
    want = ARTIFACT_PREFIX.size + header_size + payload_size
    if header_size > MAX_HEADER_BYTES or raw_size > MAX_RAW_BYTES or len(data) != want:
        raise ArtifactError(f"{len(data)} bytes, but the prefix announces {want}; the file is cut or damaged")
    body = memoryview(data)[ARTIFACT_PREFIX.size :]
    try:
        stream = zlib.decompressobj()
        model = dict((header := json.loads(stream.decompress(body[:header_size], MAX_HEADER_BYTES)))["model"])
        tensors = [(str(name), tuple(int(n) for n in shape), int(bits)) for name, shape, bits in header["tensors"]]
        known = set(MODEL_KEYS) <= set(model) <= {*MODEL_KEYS, *LATER_KEYS, *FORMER_KEYS}
        if not stream.eof or stream.unused_data or not known or len(tensors) > MAX_TENSORS or len({t[0] for t in tensors}) != len(tensors):
            raise ValueError("it is cut or too long, has other keys than this version writes, or names a tensor twice")
        for name, shape, bits in tensors:
            if not known_tensor(shape, bits) or (version == 1 and not bits) or not all(0 <= n <= MAX_RAW_BYTES for n in shape):
                raise ValueError(f"tensor {name} has shape {shape} and {bits} bits, which this version does not know")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zlib.error) as e:
        raise ArtifactError(f"the header of the artifact is damaged: {e}") from None
    sizes = [sum(rows * columns * int(kind[-1]) for kind, rows, columns in sections([tensor])) for tensor in tensors]
    if sum(sizes) != raw_size: raise ArtifactError(f"the tensors take {sum(sizes)} bytes, but the prefix announces {raw_size}")
    raw = decompress(bytes(body[header_size:]), CODECS[codec], raw_size, sections(tensors))
    if zlib.crc32(raw) != crc: raise ArtifactError("the checksum of the weights is wrong; the file is damaged")
    pieces = np.split(np.frombuffer(raw, np.uint8), np.cumsum(sizes)[:-1])
    return model, {name: unpack_tensor(piece, shape, bits) for (name, shape, bits), piece in zip(tensors, pieces)}
def fit_artifact(weights: dict, s: Settings, code_bytes: int, hessians: dict | None = None, powers: dict | None = None) -> tuple:
    """(steps by name, artifact): balanced_steps times a factor, 1/8 to 8, by which code + artifact get 99.8 to 100% of TARGET_BYTES."""
    target, a_bit_each = s.TARGET_BYTES - code_bytes, sum(w.size for w in weights.values()) / 8
    low, high, x, best, steps = -6.0, 6.0, 0.0, None, balanced_steps(weights, s, powers or {})  # x: log2 of the factor
    for _ in range(16):
        found = (scaled := {name: step * 2.0**x for name, step in steps.items()}), encode_artifact(weights, s, hessians, scaled)
        over = len(found[1]) - target
        if not s.TARGET_BYTES or -0.002 * target <= over <= 0 or x == (3 if over > 0 else -3): return found
        low, high, best = (x, high, best) if over > 0 else (low, x, found)
        guess = x + (over + 0.001 * target) / a_bit_each  # twice the step takes nearly a bit off each weight
        x = min(max(guess if low < guess < high else (low + high) / 2, -3.0), 3.0)
    return best or found
def forecast_bytes(weights: dict, s: Settings, code_bytes: int = 0, hessians: dict | None = None, powers: dict | None = None) -> int:
    """Artifact bytes to expect after training. Trained rows are near normal, so tensors that start at zero are filled that way."""
    rng = np.random.default_rng(0)
    filled = {n: w if w.any() else rng.standard_normal(w.shape).astype(np.float32) for n, w in weights.items()}
    return len(fit_artifact(filled, s, code_bytes, hessians, powers)[1])
# shared: end artifact
# Logging and the run folder ===========================================================================================
# shared: begin logging
def atomic_write(path: Path, write: Callable) -> None:
    """Write a file under a temporary name and rename it, so that it is there whole or not at all. Raises UserError."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as e:
        with contextlib.suppress(OSError): part.unlink()
        with contextlib.suppress(OSError): path.parent.rmdir()  # only where it is empty, so just made for the run
        why = "the disk is full" if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else e.strerror or str(e)
        raise UserError(f"could not write {path}: {why}. Nothing half-written was left; free space or name another RUNS_DIR") from None

class Clock:
    """Seconds by span. Only the spans `train` and `export` belong to the training clock."""
    def __init__(self, synchronize: Callable[[], None]): self.seconds, self.current, self.mark, self.synchronize = {}, "", 0.0, synchronize
    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Book a stretch under `name`; inside another span, that one stands still meanwhile."""
        outer = self.current
        self.book(name)
        try: yield
        finally: self.book(outer)
    def book(self, name: str) -> None:
        """Book the time since the last call under the span that was current, once the device is done, and go on with another."""
        self.synchronize()
        now = time.perf_counter()
        if self.current: self.seconds[self.current] = self.seconds.get(self.current, 0.0) + now - self.mark
        self.current, self.mark = name, now
    def read(self, name: str) -> float:
        return self.seconds.get(name, 0.0) + (time.perf_counter() - self.mark if name == self.current else 0.0)
    def training(self) -> float: return self.read("train") + self.read("export")

class Log:
    """Prints lines and keeps them in train.log; rank 0 only. On a terminal, progress is a live line, elsewhere plain lines."""
    def __init__(self, enabled: bool = True): self.enabled, self.file = enabled, io.StringIO()  # in memory until there is a run folder
    def __call__(self, line: str) -> None:
        if self.enabled:
            with contextlib.suppress(OSError, AttributeError, UnicodeError):  # nobody listens, or not in UTF-8; the file still does
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()
            self.keep(line)
    def keep(self, line: str) -> None:
        """To the file alone. A log that cannot be written any more is given up with one line; the run goes on."""
        try:
            if self.enabled: print(line, file=self.file, flush=True)
        except OSError as e:
            self.file = io.StringIO()
            print(f"warning: the log file cannot be written any more ({e.strerror}); lines go on here", file=sys.stderr)
    def open(self, path: Path) -> None:
        """Write what was said so far, and all that follows, to a file as well."""
        if self.enabled:
            said, self.file = self.file.getvalue(), open(path, "a", encoding="utf-8")
            self.file.write(said)
    @contextlib.contextmanager
    def progress(self, label: str, total: float, unit: str, done: float = 0.0) -> Iterator[Callable]:
        """Yields bar(done_more, note=""): a tqdm line on a terminal, and elsewhere a line with the time left every 20 s."""
        live = self.enabled and sys.stderr is not None and sys.stderr.isatty()  # None: a closed one
        start = said = time.perf_counter()
        with tqdm(None, label, total, initial=done, unit=unit, disable=not live, leave=False, dynamic_ncols=True, unit_scale=True) as line:
            def bar(more: float, note: str = "") -> None:
                nonlocal done, said
                done += more
                line.set_postfix_str(note, refresh=False)
                line.update(min(more, max(0.0, total - line.n)))
                now = time.perf_counter()
                if not live and label != "train" and now - said > 20 and done:
                    said = now
                    self(f"{label} progress:{done / total:.1%} left_s:{(now - start) * (total / done - 1):.0f}")
            yield bar
def save_arrays(path: Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
    """Arrays and a JSON text in one .npz (no pickle), atomically."""
    atomic_write(path, lambda f: np.savez(f, meta=np.array(json.dumps(meta)), **arrays))
def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """What save_arrays wrote. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as z: arrays = {name: z[name] for name in z.files}
        return arrays, json.loads(str(arrays.pop("meta")))
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as e:
        raise UserError(f"cannot read {path}: {e}; without it the run cannot go on from there") from None
def create_run_folder(s: Settings) -> Path:
    """Make RUNS_DIR/RUN_ID with settings.env and the source. Raises UserError if it exists or cannot be written."""
    s.values["RUN_ID"] = s.RUN_ID or time.strftime("%Y-%m-%d_%H%M%S")
    folder = Path(s.RUNS_DIR) / s.RUN_ID
    try: folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder} exists and is kept as it is; choose another RUN_ID, or go on with it: --resume {folder}") from None
    except OSError as e:
        raise UserError(f"cannot make the run folder {folder}: {e.strerror}; set RUNS_DIR to a folder you may write to") from None
    atomic_write(folder / "train_gpt.py", lambda f: f.write(SOURCE))
    atomic_write(folder / "settings.env", lambda f: f.write(s.as_env().encode()))
    return folder
def peak_process_bytes() -> int:
    with contextlib.suppress(ImportError):  # Windows does not say
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0

class Interrupted(BaseException): """The run was asked to stop; what is on disk is enough to go on."""
class Interrupt:
    """SIGINT, SIGTERM or SIGHUP sets `signal`; the first raises Interrupted where `raises` is set; the same one again kills."""
    def __init__(self):
        self.signal, self.raises, hangup = 0, False, getattr(signal, "SIGHUP", None)  # Windows has none, and nohup has it ignored
        numbers = [signal.SIGINT, signal.SIGTERM] + [hangup] * (hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL)
        for number in numbers: signal.signal(number, self._handle)
    def raise_from_now(self) -> None:
        """Raise Interrupted from here on, and at once if a signal has come already."""
        self.raises = True
        if self.signal: raise Interrupted
    def _handle(self, number: int, frame: object) -> None:
        self.signal, raises, self.raises = number, self.raises, False  # once: no second signal breaks off what the first ends
        signal.signal(number, signal.SIG_DFL)
        if raises: raise Interrupted
def kv(**pairs: object) -> str:
    """The one format of log lines, `key:value key:value`: exact scores with 8 decimals, other fractions with 6 digits."""
    text = {k: f"{v:.8f}" if k.endswith(("bpb", "val_loss")) else f"{v:.6g}" for k, v in pairs.items() if isinstance(v, float)}
    return " ".join(f"{k}:{text.get(k, v)}" for k, v in pairs.items())

# What a run is scored on: validation tokens (n + 1,) uint16, bytes of each target (n,), a ByteTable, hashes, tokens of the sets of AUX_VAL
Data = collections.namedtuple("Data", "val_tokens val_bytes table hashes aux", module=__name__)
def load_data(s: Settings, log: Log, with_train: bool) -> Data:
    """Open shards and tokenizer, check them against each other and audit the validation bytes. Raises DataError."""
    table = ByteTable.load(s.TOKENIZER_PATH)
    if (pieces := len(table.base_bytes)) != s.VOCAB_SIZE:
        raise DataError(f"TOKENIZER_PATH={s.TOKENIZER_PATH} has {pieces} pieces, not VOCAB_SIZE={s.VOCAB_SIZE}; set VOCAB_SIZE={pieces}?")
    tokens = load_tokens(f"{glob.escape(s.DATA_PATH)}/*_val_[0-9]*.bin", s.VAL_TOKENS, s.VOCAB_SIZE)
    total, aux, train_tokens = audit_bytes(tokens, table), {}, 0
    for name, pattern in (item.split("=") for item in s.AUX_VAL.split(",") if item):
        if name in aux or re.match("xz_9e$|context_", name): raise UserError(f"AUX_VAL={s.AUX_VAL}: the name {name} is taken")
        aux[name] = load_tokens(pattern, s.VAL_TOKENS, s.VOCAB_SIZE)
        audit_bytes(aux[name], table, f"{name} of AUX_VAL")
    hashes = {"val_tokens_sha256": sha256_of(tokens), "tokenizer_sha256": sha256_of(Path(s.TOKENIZER_PATH).read_bytes())}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        manifest = json.loads((Path(s.DATA_PATH) / "manifest.json").read_text(encoding="utf-8"))
        log("dataset " + kv(name=manifest["name"], note=manifest["note"] or "-"))
    for path in find_shards(f"{glob.escape(s.DATA_PATH)}/*_train_[0-9]*.bin") if with_train else []:
        shard = open_shard(path)
        check_tokens(shard, s.VOCAB_SIZE, path)
        train_tokens += len(shard)
        hashes[path.name] = sha256_of(shard)
    if len(tokens) - 1 < s.VAL_TOKENS:
        log(f"warning: VAL_TOKENS={s.VAL_TOKENS}, but the validation shards hold {len(tokens) - 1} targets; all of them are scored")
    log("data " + kv(train_tokens=train_tokens, val_targets=len(tokens) - 1, val_bytes=total, val_documents=int((tokens == BOS).sum())))
    log("data " + kv(tokenizer_bytes=Path(s.TOKENIZER_PATH).stat().st_size, **hashes))
    return Data(tokens, table.target_bytes(tokens[:-1], tokens[1:]), table, hashes, aux)
def xz_bits_per_byte(tokens: np.ndarray, table: ByteTable) -> float:
    """What `xz -9e` makes of the same text, in bits per byte: a plain compressor to hold a small model against."""
    text = b"\n".join(table.decode([tokens[a + 1 : b].tolist() for a, b in itertools.pairwise(document_bounds(tokens))]))
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
# shared: end logging
# Main: set up, warm up, train, export, score ==========================================================================
class Stepper:
    """One optimizer step after another: forward and backward passes, gradients over all devices, update."""
    def __init__(self, s: Settings, runtime: Runtime, model: GPT):
        self.s, self.runtime, self.model, self.optimizer = s, runtime, model, Optimizer(model, s, runtime)
        mode = "reduce-overhead" if runtime.graphs else None
        self.nats = torch.compile(model.nats, dynamic=False, mode=mode) if runtime.compile else model.nats
    def prepare(self, batch: np.ndarray) -> Tensor:
        """Tokens as a tensor, pinned for the copy to a GPU; called in the prefetch thread."""
        return torch.from_numpy(batch).pin_memory() if self.runtime.cuda else torch.from_numpy(batch)
    def launch(self, step: int, batch: Tensor, scale: float) -> tuple[Tensor, torch.cuda.Event | None]:
        """Train on a batch, (sequences, TRAIN_SEQ_LEN + 1) int32; the loss comes later, by `finish`."""
        batch, total = batch.to(self.runtime.device, non_blocking=True).long(), torch.zeros((), device=self.runtime.device)
        self.model.train()
        for part in batch.split(max(1, (self.s.MICROBATCH_TOKENS or self.s.TRAIN_BATCH_TOKENS) // self.s.TRAIN_SEQ_LEN)):
            loss = self.nats(part[:, :-1], part[:, 1:], part.size(1) - 1).mean() * (len(part) / len(batch))
            loss.backward()
            total += loss.detach()
        for name, p in self.optimizer.params.items():
            if p.grad is None: raise UserError(f"{name} gets no gradient: use it in each step, be it x 0, or make it no Parameter")
        if self.runtime.world > 1:
            values = [p.grad for p in self.optimizer.params.values()] + [total]
            flat = torch.cat([v.flatten() for v in values]) / self.runtime.world
            dist.all_reduce(flat)
            for v, mean in zip(values, flat.split([v.numel() for v in values])): v.copy_(mean.view_as(v))
        self.model.eval()
        self.optimizer.step(step, scale)
        if not self.runtime.cuda: return total, None
        return torch.empty((), pin_memory=True).copy_(total, non_blocking=True), torch.cuda.current_stream().record_event()
    def finish(self, launched: tuple[Tensor, torch.cuda.Event | None]) -> float:
        """Wait for a launched step; the mean loss over all devices."""
        if launched[1]: launched[1].synchronize()
        return float(launched[0])
    def tensors(self) -> dict[str, Tensor]:
        """Everything that a step changes, live: weights and optimizer state."""
        return {f"weights/{n}": p.data for n, p in self.model.named_parameters()} | self.optimizer.state
    def state(self) -> dict[str, np.ndarray]: return {name: tensor.cpu().numpy().copy() for name, tensor in self.tensors().items()}
    def load_state(self, state: dict[str, np.ndarray]) -> None:
        if odd := sorted((mine := self.tensors()).keys() ^ state.keys()):
            raise UserError(f"{', '.join(odd[:5])} would be lost on --resume: make all of Optimizer.state in __init__")
        for name, tensor in mine.items(): tensor.copy_(torch.from_numpy(state[name]))
    def warm_up(self, batch: np.ndarray, log: Log) -> None:
        """Compile by running steps on a batch, then put everything back. What fails is gone without: CUDA graphs first, then compiling."""
        saved = self.state()
        while self.runtime.compile:
            try:
                for _ in range(3): self.finish(self.launch(0, self.prepare(batch), 1.0))  # compiles, records CUDA graphs, replays them
                break
            except Exception as e:  # the compiler's own errors have many types; a real bug shows again in the uncompiled run
                self.runtime.compile, self.runtime.graphs = self.runtime.graphs, False
                what = "torch.compile failed, running without " + ("CUDA graphs" if self.runtime.compile else "it")
                log(f"note: {what}: {type(e).__name__}: {str(e).strip().partition(chr(10))[0][:200]}")
                self.model.zero_grad()
                torch._dynamo.reset()  # what is compiled keeps a graph's memory
                self.__init__(self.s, self.runtime, self.model)  # what is compiled, anew, as the runtime now has it
        self.load_state(saved)

# shared: begin main
class Diverged(Exception): """The training loss is no longer a number, or far above that of guessing."""
class Run:
    """One command: what it computes with, what it reads, where it writes, and its phases in order."""
    def __init__(self, args: argparse.Namespace, s: Settings, log: Log):
        self.s, self.log, self.runtime, self.folder = s, log, resolve_device(s), Path(args.resume) if args.resume else None
        self.runtime.start(s.SEED)
        self.clock, log.enabled = Clock(self.runtime.synchronize), self.runtime.rank == 0
        for line in s.warnings + self.runtime.notes: log(f"note: {line}")
        with self.clock.span("setup"): self.data = load_data(s, log, with_train=not args.eval_only)
    def build(self) -> GPT:
        model = GPT(self.s, self.runtime)
        model.load_weights(initial_weights(self.s, model.weights()))
        return model
    def open_folder(self) -> None:
        """Make the run folder, or keep the changed settings of the one to go on with; begin the log with all that the run depends on."""
        s, r = self.s, self.runtime
        if self.folder is None: self.folder = Path(r.from_first(str(create_run_folder(s)) if r.rank == 0 else ""))
        elif r.rank == 0: atomic_write(self.folder / "settings.env", lambda f: f.write(s.as_env().encode()))
        self.log.open(self.folder / "train.log")
        for name, value in s.values.items(): self.log.keep(f"setting {name}={value} from:{s.sources[name]}")
        lane = "record" if r.cuda and r.world == 1 and 0 < s.MAX_WALLCLOCK_SECONDS <= 1800 else "open hardware"  # docs/track_spec.md
        self.about = {"run_id": s.RUN_ID, "seed": s.SEED, "lane": lane, "devices": r.world} | r.about()
        self.about |= {"python": platform.python_version(), "numpy": np.__version__, "code_sha256": sha256_of(SOURCE)}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # how fast scripts/doctor.py found this device to be
            known = json.loads((Path(s.RUNS_DIR) / "calibration.json").read_text(encoding="utf-8"))
            self.about["calibration_tokens_per_s"] = float(known[self.about["device"]]["tokens_per_s"])
        for name, value in self.about.items(): self.log(kv(**{name: value}))
    def calibrate(self, model: GPT) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """What guides the rounding, from the first sequences: second_moments on CALIBRATION_TOKENS, squared_gradients on BALANCE_TOKENS."""
        order, length = TrainSequences(self.s), self.s.TRAIN_SEQ_LEN
        def first(tokens: int) -> np.ndarray: return np.array([order.sequence(i) for i in range(-(-tokens // length))], np.int32)
        return second_moments(model, first(self.s.CALIBRATION_TOKENS)), squared_gradients(model, first(self.s.BALANCE_TOKENS))
    def forecast(self, model: GPT) -> tuple[float, int]:
        """Say how large the artifact will be; return the seconds to keep free for the export, and the bytes in all. Raises UserError."""
        weights, begin, code, limit = model.weights(), time.perf_counter(), len(SOURCE), self.s.MAX_WALLCLOCK_SECONDS
        packed = forecast_bytes(weights, self.s, code, *self.calibrate(model))
        parameters = {role: sum(w.size for n, w in weights.items() if role_of(n) == role) for role in dict.fromkeys(ROLES.values())}
        self.log("model " + kv(parameters=sum(parameters.values()), **parameters))
        self.log("forecast " + kv(code_bytes=code, model_bytes=packed, total_bytes=code + packed, cap_bytes=self.s.CAP_BYTES))
        free = shutil.disk_usage(next(x for x in (self.folder or Path(self.s.RUNS_DIR, "run")).resolve().parents if x.exists())).free
        if free < (need := 20 * sum(parameters.values())): self.log(f"warning: {free} bytes of disk are free; the run's files take {need}")
        reserve = 1.0 + 2.0 * (time.perf_counter() - begin) if limit else 0.0
        if reserve > limit: raise UserError(f"MAX_WALLCLOCK_SECONDS={limit}: the export alone may need {reserve:.0f} s here; raise it")
        return reserve, code + packed
    def take_up(self, path: Path) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and meta data of a file to go on from; the clock goes on too. Raises UserError, DataError if it began on other data."""
        arrays, meta = load_arrays(path)
        if meta["data"] != self.data.hashes:
            raise DataError(f"--resume {self.folder}: it began on other data than DATA_PATH and TOKENIZER_PATH hold; put those back")
        self.clock.seconds = meta["seconds"]
        return arrays, meta
    def train(self, model: GPT, interrupt: Interrupt) -> dict:
        """Train within the clock; weights.npz is on disk at the end. Returns its meta data. Raises Interrupted, Diverged."""
        s, r, log, clock, data = self.s, self.runtime, self.log, self.clock, self.data
        stepper, order, checkpoint = Stepper(s, r, model), TrainSequences(s, r.rank, r.world), self.folder / "checkpoint.npz"
        step, (reserve_s, _) = 0, self.forecast(model)
        with clock.span("warmup"): stepper.warm_up(order.batch(0), log)
        if checkpoint.exists():
            state, meta = self.take_up(checkpoint)
            stepper.load_state(state)
            step = meta["step"]
            log("resumed " + kv(step=step, train_s=clock.training()))
        first_step = said_step = step
        first_s = said_s = saved_s = clock.training()
        pending, losses = collections.deque(), []  # losses still on their way from the device; those since the last log line
        def settle(keep: int) -> None:
            """Wait until at most `keep` steps are in flight, so that the clock is honest and the device never idle."""
            while len(pending) > keep:
                at, launched = pending.popleft()
                losses.append(stepper.finish(launched))
                if not losses[-1] < 2.0 * math.log(s.VOCAB_SIZE):
                    rates = kv(MATRIX_LR=s.MATRIX_LR, EMBED_LR=s.EMBED_LR, VECTOR_LR=s.VECTOR_LR)
                    raise Diverged(f"step {at}: train_loss {losses[-1]}; halve one of {rates} or raise WARMUP_STEPS={s.WARMUP_STEPS}")
        def save() -> None:
            settle(0)
            clock.book("train")
            if r.rank == 0: save_arrays(checkpoint, stepper.state(), {"step": step, "data": data.hashes, "seconds": clock.seconds})
        ahead = contextlib.closing(prefetch(lambda step: stepper.prepare(order.batch(step)), step))
        total, unit, done = (s.MAX_WALLCLOCK_SECONDS, "s", first_s) if s.MAX_WALLCLOCK_SECONDS else (s.ITERATIONS, "steps", step)
        interrupt.raises = False  # between two steps, from here on, when all can be saved
        with ahead as batches, clock.span("train"), log.progress("train", total, unit, done) as bar:
            while True:
                seconds, flying = clock.training(), len(pending)
                soon = seconds + (flying + 1) * (seconds - first_s) / max(1, step - first_step - flying)  # when the step to come is done
                progress, stop = r.agree_max(progress_of(s, step, soon, reserve_s), interrupt.signal)
                if stop:
                    save()
                    interrupt.signal = int(stop)
                    raise Interrupted
                if progress >= 1.0: break
                if s.CHECKPOINT_EVERY_SECONDS and seconds - saved_s >= s.CHECKPOINT_EVERY_SECONDS:
                    saved_s = seconds
                    try: save()
                    except UserError as e: log(f"warning: {e}; training goes on without this checkpoint")
                scale = lr_scale(s, step, progress)
                pending.append((step + 1, stepper.launch(step, next(batches), scale)))
                step += 1
                settle(r.steps_in_flight if losses or (step > 1 and step % s.TRAIN_LOG_EVERY) else 0)  # a log line waits for a loss
                now = clock.training()
                bar(now - seconds if unit == "s" else 1, kv(step=step, loss=losses[-1] if losses else math.nan))
                if int(order.epoch(step)) > int(order.epoch(step - 1)): log("data " + kv(epoch=int(order.epoch(step)), begins_at_step=step))
                if step % s.TRAIN_LOG_EVERY == 0 or step == 1:
                    rate = (step - said_step) * s.TRAIN_BATCH_TOKENS / (now - said_s)
                    left = now / progress_of(s, step, now, reserve_s) - now
                    loss = float(np.mean(losses))
                    log(kv(step=step, train_loss=loss, lr_scale=scale, train_s=now, tokens_per_s=round(rate), left_s=round(left)))
                    said_step, said_s, losses = step, now, []
                if s.VAL_LOSS_EVERY and step % s.VAL_LOSS_EVERY == 0:
                    with clock.span("validation"):
                        nats = score(model, data.val_tokens[: s.VAL_LOSS_TOKENS + 1], s, r, log, "glance", s.TRAIN_SEQ_LEN, s.TRAIN_SEQ_LEN)
                        glance = bits_per_byte(nats, data.val_bytes[: len(nats)])
                        log(kv(step=step, glance_targets=len(nats), val_loss=glance[0], val_bpb=glance[1]))
            settle(0)
        meta = dict(steps=step, train_tokens=step * s.TRAIN_BATCH_TOKENS, epochs=order.epoch(step), data=data.hashes, seconds=clock.seconds)
        if r.rank == 0:
            save_arrays(self.folder / "weights.npz", model.weights(), meta)
            checkpoint.unlink(missing_ok=True)
        log("trained " + kv(steps=step, tokens=meta["train_tokens"], epochs=meta["epochs"], train_s=clock.training()))
        return meta
    def export(self, model: GPT) -> dict[str, int]:
        """Write artifact.bin and say its size against the cap. Returns the byte counts."""
        s, log, path, code = self.s, self.log, self.folder / "artifact.bin", len(SOURCE)
        with self.clock.span("export"):
            weights, steps = model.weights(), {}
            if self.runtime.rank == 0:
                steps, artifact = fit_artifact(weights, s, code, *self.calibrate(model))
                if steps: log("steps " + kv(**steps))
                atomic_write(path, lambda f: f.write(artifact))
        self.runtime.from_first("the artifact is written")
        sizes = {"code_bytes": code, "model_bytes": (n := path.stat().st_size), "total_bytes": code + n, "cap_bytes": s.CAP_BYTES}
        log("size " + kv(**sizes, artifact_sha256=sha256_of(path.read_bytes())))
        log(f"total_submission_size_quant_{s.CODEC}: {sizes['total_bytes']} bytes")
        if s.TARGET_BYTES and abs(sizes["total_bytes"] - s.TARGET_BYTES) > s.TARGET_BYTES // 100: log("warning: that misses TARGET_BYTES")
        if sizes["total_bytes"] > s.CAP_BYTES:
            log(f"OVER THE CAP by {sizes['total_bytes'] - s.CAP_BYTES} bytes: lower BITS_MATRIX, NUM_LAYERS or MODEL_DIM, raise"
                " STEP_MATRIX or set TARGET_BYTES; --check forecasts the size without training. The largest tensors, packed one by one:")
            packed = {name: len(encode_artifact({name: w}, s, None, steps)) for name, w in weights.items()}
            for name in sorted(packed, key=packed.get, reverse=True)[:8]:
                log("  " + kv(tensor=name, shape=weights[name].shape, bits=bits_of(s, name), bytes=packed[name]))
        return sizes
    def load_artifact(self, path: Path) -> GPT:
        """The model that the bytes on disk stand for, by its header but for EVAL_*, TTT_* and NGRAM_* given by hand. Raises UserError."""
        try: settings, weights = decode_artifact(path.read_bytes())
        except OSError as e: raise UserError(f"cannot read the artifact {path}: {e.strerror}") from None
        for name, value in ({key: self.s.table[key].default for key in LATER_KEYS} | settings).items():
            if not (name.startswith(("EVAL_", "TTT_", "NGRAM_")) and self.s.sources[name] in ("environment", "command line")):
                self.s.set(name, str(value), "artifact")
        check_settings(self.s)
        if (pieces := len(self.data.table.base_bytes)) != self.s.VOCAB_SIZE:
            raise UserError(f"{path} has VOCAB_SIZE={self.s.VOCAB_SIZE}, but TOKENIZER_PATH={self.s.TOKENIZER_PATH} {pieces} pieces")
        large = 2 * self.s.NUM_LAYERS * self.s.MODEL_DIM**2 + self.s.BIGRAM_ROWS * self.s.BIGRAM_DIM  # where no blocks share their weights
        if not self.folder and max(1 << 24, sum(w.size for w in weights.values())) < large:  # before it is made; a run has its own
            raise UserError(f"{path} holds fewer weights than the model of its own header (passes of shared blocks: another setting)")
        (bare := Settings(SETTINGS)).values |= {key: self.s.values[key] for key in (*MODEL_KEYS, *LATER_KEYS, "EVAL_SEQ_SWEEP")}
        model = GPT(bare, self.runtime)  # by no other settings than a stranger has
        model.load_weights(weights)
        return model
    def score(self, model: GPT, tokens: np.ndarray, label: str, seq_len: int = 0) -> np.ndarray:
        """score() as the settings have it, learning too if they do; in windows of seq_len, or of EVAL_SEQ_LEN."""
        s, length = self.s, seq_len or self.s.EVAL_SEQ_LEN
        return score(model, tokens, s, self.runtime, self.log, label, length, min(s.EVAL_STRIDE, length), ttt=s.TTT_LR)
    def score_artifact(self, path: Path) -> tuple[dict, np.ndarray]:
        """Score the validation stream with what is on disk, then the other sets and context lengths that were asked for."""
        s, log, data = self.s, self.log, self.data
        with self.clock.span("scoring"):
            model = self.load_artifact(path)
            nats = self.score(model, data.val_tokens, "scoring")
        val_loss, val_bpb = bits_per_byte(nats, data.val_bytes)
        result = {"val_loss": val_loss, "val_bpb": val_bpb, "scored_tokens": len(nats), "scored_bytes": int(data.val_bytes.sum())}
        log("scored " + kv(**result, seq_len=s.EVAL_SEQ_LEN, stride=s.EVAL_STRIDE, scoring_s=self.clock.read("scoring")))
        more = result["auxiliary_bpb"] = {}
        with self.clock.span("auxiliary"):
            for name, tokens in data.aux.items():
                more[name] = bits_per_byte(self.score(model, tokens, name), data.table.target_bytes(tokens[:-1], tokens[1:]))[1]
            for n in re.findall(r"\d+", s.EVAL_SEQ_SWEEP):
                more[f"context_{n}"] = bits_per_byte(self.score(model, data.val_tokens, f"context_{n}", int(n)), data.val_bytes)[1]
            if result["scored_bytes"] <= 8_000_000: more["xz_9e"] = xz_bits_per_byte(data.val_tokens, data.table)
        for name, bpb in more.items(): log("auxiliary " + kv(name=name, val_bpb=bpb))
        return result, nats
    def export_gap(self, model: GPT, nats: np.ndarray) -> dict:
        """Score the weights from before the export on the first windows, up to GAP_TOKENS targets, and compare."""
        windows = score_windows(len(nats), self.s.EVAL_SEQ_LEN, self.s.EVAL_STRIDE)
        n = max(end for _, end, first in windows if first < self.s.GAP_TOKENS)
        with self.clock.span("gap"): before = self.score(model, self.data.val_tokens[: n + 1], "scoring before export")
        pre, post = (bits_per_byte(x[:n], self.data.val_bytes[:n])[1] for x in (before, nats))
        gap = {"gap_tokens": n, "pre_export_val_bpb": pre, "post_export_val_bpb": post, "export_gap_bpb": post - pre}
        self.log("export " + kv(**gap))
        return gap
    def whole_loop(self) -> int:
        """Train, export, score, result.json. Returns the exit status."""
        s, log, clock, interrupt = self.s, self.log, self.clock, Interrupt()
        model = self.build()  # before there is a folder, so that an edit that does not build leaves none
        self.open_folder()
        go_on = "go on with: " + shlex.join(["python3", str(self.folder / "train_gpt.py"), "--resume", str(self.folder)])
        try:
            interrupt.raise_from_now()
            if (self.folder / "weights.npz").exists():
                weights, meta = self.take_up(self.folder / "weights.npz")
                model.load_weights(weights)
                log("resumed " + kv(after="training", steps=meta["steps"]))
            else: meta = self.train(model, interrupt)
            interrupt.raise_from_now()
            sizes, limit = self.export(model), s.MAX_WALLCLOCK_SECONDS or math.inf
            if (late := clock.training() - limit) > 0: log(f"warning: export {late:.1f} s past MAX_WALLCLOCK_SECONDS; use a quiet machine")
            result, nats = self.score_artifact(self.folder / "artifact.bin")
            result |= self.export_gap(model, nats) | sizes | self.about | {k: meta[k] for k in ("steps", "train_tokens", "epochs")}
            result |= {"train_seconds": clock.training(), "seconds": clock.seconds, "settings": s.values}
            result |= {"peak_memory_bytes": self.runtime.memory()[0], "data_hashes": self.data.hashes}
            log(kv(peak_memory_bytes=result["peak_memory_bytes"], **{f"{name}_s": spent for name, spent in clock.seconds.items()}))
            log("final_sliding_window_exact " + kv(val_loss=result["val_loss"], val_bpb=result["val_bpb"]))
            if self.runtime.rank == 0: atomic_write(self.folder / "result.json", lambda f: f.write(json.dumps(result, indent=1).encode()))
            return EXIT_OVER_CAP if sizes["total_bytes"] > s.CAP_BYTES else 0
        except Interrupted:
            log(f"interrupted, nothing is lost; {go_on}")
            return 128 + interrupt.signal
        except Diverged as e:
            log(f"diverged: {e}")
            return EXIT_DIVERGED
        except Exception as e:
            held = ", ".join(sorted(os.listdir(self.folder))) + " (steps taken are in checkpoint.npz or weights.npz)"
            hint = f"\nlower MICROBATCH_TOKENS ({s.MICROBATCH_TOKENS // 2 or 4096} at first) and EVAL_BATCH_TOKENS" * ("memory" in str(e))
            log(f"failed: {type(e).__name__}: {e}{hint}\n{self.folder} holds {held}; mend its train_gpt.py if need be, then {go_on}")
            raise
    def eval_only(self, path: Path) -> int:
        if (copy := path.parent / "train_gpt.py").is_file() and copy.read_bytes() != SOURCE:
            self.log(f"note: this run has its own source, edited or packed, which scores it so: python3 {copy} --eval-only {path}")
        if not copy.is_file(): self.log(f"note: no run folder here says what it was trained on; scored with {self.s.TOKENIZER_PATH}")
        result, _ = self.score_artifact(path)
        self.log("final_sliding_window_exact " + kv(val_loss=result["val_loss"], val_bpb=result["val_bpb"]))
        return 0
    def check(self) -> int:
        """Say what a run would do, from a few timed steps and windows; warn about what will go wrong. Returns the exit status."""
        s, r, log, model, goal = self.s, self.runtime, self.log, self.build(), self.s.TARGET_BYTES
        reserve_s, forecast = self.forecast(model)
        stepper, order, steps = Stepper(s, r, model), TrainSequences(s, r.rank, r.world), 0
        stepper.warm_up(order.batch(0), log)
        stepper.finish(stepper.launch(0, stepper.prepare(order.batch(0)), 1.0))
        with self.clock.span("steps"):
            while steps < 3 or (steps < 20 and r.agree_max(self.clock.read("steps"))[0] < 10):
                steps += 1
                stepper.finish(stepper.launch(steps, stepper.prepare(order.batch(steps)), 1.0))
        per_step, (peak_bytes, all_bytes) = self.clock.read("steps") / steps, r.memory()
        windows, reach = 32 if s.TTT_LR else 2 * s.EVAL_BATCH_TOKENS // s.EVAL_SEQ_LEN, min(s.EVAL_SEQ_LEN, s.ATTN_WINDOW or s.EVAL_SEQ_LEN)
        head, some = (self.data.val_tokens[: s.EVAL_SEQ_LEN + 1 + n * s.EVAL_STRIDE] for n in (1, max(2, windows)))
        for span, tokens in ("imports", head), ("head", head), ("windows", some):  # the first time imports half of torch
            with self.clock.span(span): self.score(model, tokens, "check")
        head_s, all_s = self.clock.read("head"), self.clock.read("windows")  # head: apart, as the first window scores all it holds
        scoring_s = head_s + max(0.0, all_s - head_s) * (len(self.data.val_tokens) - len(head)) / max(1, len(some) - len(head))
        total = min(int((s.MAX_WALLCLOCK_SECONDS - reserve_s) / per_step) if s.MAX_WALLCLOCK_SECONDS else 10**9, s.ITERATIONS or 10**9)
        log("check " + kv(step_s=per_step, tokens_per_s=round(s.TRAIN_BATCH_TOKENS / per_step), peak_memory_bytes=peak_bytes))
        log("check " + kv(steps=total, train_tokens=total * s.TRAIN_BATCH_TOKENS, epochs=order.epoch(total)))
        log("check " + kv(warmdown_begins_at_step=int(total * (1 - s.WARMDOWN_FRAC)), scoring_s=round(scoring_s)))
        for wrong, advice in (
            (forecast > s.CAP_BYTES, f"{forecast} bytes are over CAP_BYTES={s.CAP_BYTES}; lower TARGET_BYTES, BITS_* or MODEL_DIM"),
            (goal and abs(forecast - goal) > goal // 100, f"{forecast} bytes are as near TARGET_BYTES={goal} as steps bring this model"),
            (total < 10 * s.WARMUP_STEPS, f"{total} steps are few for WARMUP_STEPS={s.WARMUP_STEPS}; lower it or TRAIN_BATCH_TOKENS"),
            (order.epoch(total) > 10, f"{order.epoch(total):.0f} passes over the training shards; fetch more of them"),
            (scoring_s > max(s.MAX_WALLCLOCK_SECONDS, 60), "scoring takes longer than training; raise EVAL_STRIDE or lower VAL_TOKENS"),
            (reach > s.TRAIN_SEQ_LEN, f"scored with more context than trained with, which can cost 0.1 bpb; try TRAIN_SEQ_LEN={reach}"),
            (peak_bytes > 0.9 * all_bytes, "device memory is nearly full; set or lower MICROBATCH_TOKENS"),
        ):  # fmt: skip
            if wrong: log(f"warning: {advice}")
        return 0

def main(argv: list[str] | None = None) -> int:
    try:
        args = command_line().parse_intermixed_args(argv)
        run = Run(args, load_settings(argv), Log())
        if args.check: return run.check()
        return run.eval_only(Path(args.eval_only)) if args.eval_only else run.whole_loop()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt: return 128 + signal.SIGINT  # before the run folder was made, or while scoring alone: there is nothing to keep
# shared: end main
if __name__ == "__main__": sys.exit(main())

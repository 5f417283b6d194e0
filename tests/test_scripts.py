"""The shell layer's promises: arguments, the choice of Python, the order of checks before a run, clean shell.

Scripts run in a copy of the repository's scripts/ beside stand-ins: a `python3` that only pretends to have packages, to
make environments and to install, a trainer that prints its arguments, data builders that write empty shards.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
SHELL_FILES = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci" / "run"])

# Behaves by the files beside it: old, new, no_pip, no_venv, and has_<requirements file> for what is installed.
FAKE_PYTHON = f"""#!/bin/sh
here="$(dirname "$0")"
echo "$(basename "$here")/$(basename "$0") $*" >>"$CALLS"
case "$*" in
  *version_info*"(3, 15)"*) [ ! -e "$here/old" ] && [ ! -e "$here/new" ] ;;
  *version_info*) [ ! -e "$here/old" ] ;;
  *platform.python_version*) echo 3.9.6 ;;
  *sys.executable*) echo "$0" ;;
  *"import ensurepip"*) [ ! -e "$here/no_venv" ] ;;
  *"import pip"*) [ ! -e "$here/no_pip" ] ;;
  "-m ensurepip"*) rm "$here/no_pip" ;;
  *"print(sysconfig"* | *"get_path"*) echo "$here" ;;
  *"sys.path if"*) echo "$here/site-packages" ;;
  *missing_packages.py*)
    shift
    for file in "$@"; do [ -e "$here/has_$(basename "$file")" ] || {{ echo "something==1"; exit 1; }}; done ;;
  "-m venv"*)
    for last in "$@"; do :; done
    mkdir -p "$last/bin"
    cp "$0" "$last/bin/python" ;;
  "-m pip install"*)
    [ ! -e "{{no_network}}" ] || exit 1
    for last in "$@"; do :; done
    touch "$here/has_$last" ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""

FAKE_TRAINER = """
import json, os, sys
from types import SimpleNamespace

class UserError(Exception):
    pass

def load_settings(argv):
    pairs = dict(item.split("=", 1) for item in argv if "=" in item)
    if "BAD" in pairs:
        raise UserError("BAD is no setting")
    return SimpleNamespace(**{"DEVICE": "cpu", "DATA_PATH": "data/datasets/embedded_sp1024",
                              "TOKENIZER_PATH": "data/tokenizers/embedded.model"} | pairs |
                              {"TARGET_BYTES": int(pairs.get("TARGET_BYTES", 0))})

def resolve_device(s):
    if s.DEVICE == "cuda":
        raise UserError("DEVICE=cuda, but there is none; configs/local_cpu_smoke.env")
    return SimpleNamespace(compile=getattr(s, "COMPILE", "") == "on")

if __name__ == "__main__":
    print(json.dumps({"script": sys.argv[0], "argv": sys.argv[1:], "cwd": os.getcwd(), "pid": os.getpid()}))
    sys.exit(int(os.environ.get("TRAINER_STATUS", 0)))
"""

FAKE_BUILDER = """
import os, sys
from pathlib import Path
print("built by", " ".join(sys.argv))
if os.environ.get("BUILDER") == "fails":
    sys.exit(1)
name = "embedded_sp1024" if "--variant" not in sys.argv else "fineweb10B_" + sys.argv[sys.argv.index("--variant") + 1]
for split in ("train", "val") if os.environ.get("BUILDER") != "half" else ("val",):
    path = Path("data/datasets", name, f"x_{split}_000000.bin")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
Path("data/tokenizers").mkdir(parents=True, exist_ok=True)
Path("data/tokenizers/embedded.model").touch()
"""


class Repo:
    """A copy of scripts/ with stand-ins beside it, and a PATH whose python3 is the pretender."""

    def __init__(self, folder):
        self.root, self.bin, self.calls_file = folder / "repo", folder / "bin", folder / "calls"
        self.venv = self.root / ".venv"
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.glob("requirements-*.txt"):
            shutil.copy(path, self.root)
        (self.root / "configs").mkdir()
        (self.root / "configs" / "some.env").write_text("SEED=1\n")
        (self.root / "data").mkdir()
        for name in ("train_gpt.py", "train_gpt_mlx.py"):
            (self.root / name).write_text(FAKE_TRAINER)
        for name in ("build_embedded_corpus.py", "cached_challenge_fineweb.py"):
            (self.root / "data" / name).write_text(FAKE_BUILDER)
        self.bin.mkdir()
        for tool in "sh bash dirname basename cat cp mkdir touch".split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.add_python("python3")
        self.env = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "HOME": str(folder)}

    def add_python(self, name):
        self.no_network = self.root.parent / "no_network"
        (self.bin / name).write_text(FAKE_PYTHON.replace("{no_network}", str(self.no_network)))
        (self.bin / name).chmod(0o755)

    def bash(self, *command, cwd=None, **env):
        self.calls_file.write_text("")
        return subprocess.run(
            ["bash", *map(str, command)], cwd=cwd or self.root, env=self.env | env, capture_output=True, text=True
        )

    def setup(self, *files, **env):
        """Run setup_python and return the finished process; its stdout is PGL_PYTHON."""
        files = files or ("requirements-cuda.txt",)
        return self.bash("-euc", '. scripts/setup_python.sh; setup_python "$@"; echo "$PGL_PYTHON"', "x", *files, **env)

    def calls(self, text):
        return [line for line in self.calls_file.read_text().splitlines() if text in line]

    def has(self, *files):
        for file in files:
            (self.bin / f"has_{file}").touch()


@pytest.fixture
def repo(tmp_path):
    return Repo(tmp_path)


@pytest.fixture
def ready(repo):
    """A repository where packages and data are there."""
    repo.has("requirements-cuda.txt", "requirements-mlx.txt", "requirements-test.txt")
    subprocess.run([sys.executable, "data/build_embedded_corpus.py"], cwd=repo.root, check=True, capture_output=True)
    return repo


# ---------------------------------------------------------------------------------------------------- run scripts


@pytest.mark.parametrize("name,trainer", [("cuda", "train_gpt.py"), ("mlx", "train_gpt_mlx.py")])
def test_arguments_reach_the_trainer_unchanged(ready, name, trainer):
    done = ready.bash(f"scripts/run_{name}_baseline.sh", "configs/some.env", "A=1", "B=two words", "--check")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["script"] == trainer
    assert got["argv"] == ["--config", "configs/some.env", "A=1", "B=two words", "--check"]
    assert ready.calls(f"missing_packages.py requirements-{name}.txt")


@pytest.mark.parametrize("packages, needed", [({"torch": "2"}, "cuda.txt"), ({"mlx": "0.31"}, "cuda.txt requirements-mlx.txt")])
def test_the_referee_gets_what_the_record_computes_with(ready, packages, needed):
    (ready.bin / "grep").symlink_to(shutil.which("grep"))
    (ready.root / "scripts" / "referee.py").write_text("import sys; print(sys.argv[1:])")
    (ready.root / "a record").mkdir()
    (ready.root / "a record" / "submission.json").write_text(json.dumps({"packages": packages}, indent=1))
    done = ready.bash("scripts/rescore.sh", "a record", "--probes", "12")
    assert done.returncode == 0 and done.stdout == "['a record', '--probes', '12']\n", done.stderr
    assert ready.calls(f"missing_packages.py requirements-{needed}")
    assert bool(ready.calls("requirements-mlx.txt")) is ("mlx" in packages)


@pytest.mark.parametrize(
    "line,packed",
    [(["A=1"], False), (["--packed", "A=1"], True), (["A=1", "--packed"], True),
     (["TARGET_BYTES=9"], True), (["TARGET_BYTES=9", "--readable"], False), (["TARGET_BYTES=0"], False)],
)  # fmt: skip
def test_where_bytes_of_code_count_a_self_extracting_copy_trains(ready, line, packed):
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", *line)
    assert done.returncode == 0, done.stderr
    *said, got = done.stdout.splitlines()
    assert [x.split(":")[0] for x in said] == ["packed/train_gpt.py"] * packed
    assert json.loads(got)["script"] == "packed/" * packed + "train_gpt.py"
    assert json.loads(got)["argv"] == ["--config", "configs/some.env", *(x for x in line if "--" not in x)]


@pytest.mark.parametrize("line", [["--resume", "runs/x"], ["--resume=runs/x"], ["--packed", "--resume", "runs/x", "TARGET_BYTES=9"]])
def test_a_run_goes_on_by_its_own_source_and_settings(ready, line):
    """The config is not read, nothing is packed anew, no data are made: what the run began with is what goes on."""
    run = ready.root / "runs" / "x"
    run.mkdir(parents=True)
    (run / "train_gpt.py").write_text(FAKE_TRAINER)
    shutil.rmtree(ready.root / "data" / "datasets")
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", "A=1", *line, "B=two words")
    assert done.returncode == 0, done.stderr
    said, got = done.stdout.splitlines()
    assert said == "runs/x goes on by its own source and settings; configs/some.env is not read"
    assert json.loads(got)["script"] == "runs/x/train_gpt.py"
    pairs = [x for x in ["A=1", *line, "B=two words"] if "=" in x and not x.startswith("--")]
    assert json.loads(got)["argv"] == ["--resume", "runs/x", *pairs]
    if line[0] != "--packed":  # and no config has to be named
        (got,) = ready.bash("scripts/run_cuda_baseline.sh", *line, "A=1").stdout.splitlines()
        assert json.loads(got)["argv"] == ["--resume", "runs/x", "A=1"]
    assert not (ready.root / "packed").exists()


def test_a_run_that_never_began_is_for_the_trainer_to_name(ready):
    for name in ("train_gpt.py", "configs/local_cpu_smoke.env"):
        shutil.copy(ROOT / name, ready.root / name)
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/local_cpu_smoke.env", "--resume", "runs/none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--resume runs/none: no run began there" in done.stderr and "`ls runs`" in done.stderr
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/local_cpu_smoke.env", "--resume", "")
    assert (done.returncode, done.stdout) == (2, "") and "--resume is empty" in done.stderr  # and no new run begins


def test_usage_names_the_script_that_was_typed(ready):
    shutil.copy(ROOT / "train_gpt.py", ready.root)  # whose parser refuses the unknown option
    for option in ("--resume", "--no-such-option"):
        done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", option)
        assert done.returncode == 2 and done.stderr.startswith("usage: run_cuda_baseline.sh "), done.stderr


def test_a_copy_that_cannot_be_written_says_what_to_type(ready):
    (ready.root / "packed").touch()  # a read-only repository does the same, but not to root
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", "TARGET_BYTES=9")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: cannot write packed/train_gpt.py, ")
    assert done.stderr.endswith("--readable\n")
    assert ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", "TARGET_BYTES=9", "--readable").returncode == 0


def test_packed_and_readable_exclude_each_other(ready):
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", "--packed", "--readable")
    assert (done.returncode, done.stdout) == (2, "") and "--packed and --readable exclude each other" in done.stderr


def test_a_packed_trainer_is_always_of_the_source_that_is_there(ready):
    for text in (FAKE_TRAINER, FAKE_TRAINER + "# edited"):
        (ready.root / "train_gpt.py").write_text(text)
        done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", "--packed")
        assert done.returncode == 0, done.stderr
    diff = [sys.executable, "scripts/pack_code.py", "--diff", "packed/train_gpt.py", "train_gpt.py"]
    assert subprocess.run(diff, cwd=ready.root, check=True, capture_output=True, text=True).stdout.endswith("are the same source\n")
    (ready.root / "train_gpt.py").write_text(FAKE_TRAINER + "# again")
    assert "-# edited\n+# again" in subprocess.run(diff, cwd=ready.root, check=True, capture_output=True, text=True).stdout
    (ready.root / "train_gpt.py").write_text(FAKE_TRAINER + "# edited")
    expand = [sys.executable, "scripts/pack_code.py", "--expand", "packed/train_gpt.py", "readable.py"]
    subprocess.run(expand, cwd=ready.root, check=True, capture_output=True)
    assert (ready.root / "readable.py").read_bytes() == (ready.root / "train_gpt.py").read_bytes()
    again = subprocess.run(expand, cwd=ready.root, capture_output=True, text=True)
    assert again.returncode == 2 and "readable.py exists and is kept as it is" in again.stderr


@pytest.mark.parametrize("options", [[], ["--packed"]])
def test_what_no_record_can_hold_is_said_before_the_training(ready, options):
    """The source that trained is the one that is checked, so that a package of one's own must not show when all seeds are done."""
    lines = FAKE_TRAINER.count("\n") + 1
    (ready.root / "train_gpt.py").write_text(FAKE_TRAINER + "def kernel():\n    import flash_attn, triton\n    return eval\n")
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", *options)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["argv"] == ["--config", "configs/some.env"]  # and it trains
    said = done.stderr.splitlines()
    assert [x.split(";")[0] for x in said] == [
        f"warning: train_gpt.py:{lines + 1}: imports flash_attn, which no requirements file names",
        f"warning: train_gpt.py:{lines + 2}: eval runs generated code",
    ], said
    assert "no record can be made of such a source" in said[0]


def test_runs_in_the_root_from_any_folder(ready, tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "mine.env").write_text("SEED=2\n")
    script = ready.root / "scripts" / "run_cuda_baseline.sh"
    for config, expected in (("mine.env", str(elsewhere / "mine.env")), ("configs/some.env", "configs/some.env")):
        got = json.loads(ready.bash(script, config, cwd=elsewhere).stdout)
        assert got["argv"] == ["--config", expected]
        assert got["cwd"] == str(ready.root)


@pytest.mark.parametrize("script", ["run_cuda_baseline", "check_submission_folder"])
def test_scripts_find_their_folder_whatever_cdpath_says(ready, script, tmp_path):
    """An exported CDPATH makes cd print where it went, or takes it to a folder of the same name elsewhere."""
    (tmp_path / "other" / "scripts").mkdir(parents=True)
    plain = ready.bash(f"scripts/{script}.sh", "--help")
    for path in (".", str(tmp_path / "other")):
        done = ready.bash(f"scripts/{script}.sh", "--help", CDPATH=path)
        assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)


@pytest.mark.parametrize("script", "run_cuda_baseline run_mlx_baseline gpu_evidence rescore make_record check_submission_folder".split())
def test_help_is_no_mistake(ready, script):
    done = ready.bash(f"scripts/{script}.sh", "--help")
    assert done.returncode == 0 and script.replace("rescore", "referee") in done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize("path", sorted(ROOT.glob("scripts/*.sh")), ids=lambda path: path.name)
def test_no_script_follows_cdpath(path):
    first, cd, _ = path.read_text().partition('cd "$(dirname "${BASH_SOURCE')
    assert not cd or "\nunset CDPATH #" in first


@pytest.mark.parametrize(
    "arguments,text",
    [
        ([], "no config given"),
        (["SEED=1"], "first argument is SEED=1; the config comes first"),
        (["--check"], "first argument is --check; the config comes first"),
        (["configs/none.env"], "no config file configs/none.env"),
    ],
)
def test_bad_arguments_list_the_configs(ready, arguments, text):
    done = ready.bash("scripts/run_cuda_baseline.sh", *arguments)
    assert done.returncode == 2
    assert text in done.stderr and "configs/some.env" in done.stderr
    assert not ready.calls("")  # no Python was even looked for


def test_a_failed_check_keeps_the_trainer_from_starting(ready):
    done = ready.bash("scripts/run_cuda_baseline.sh", "configs/some.env", "BAD=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: BAD is no setting\n"


def test_the_script_becomes_the_trainer(ready):
    """Same process id: signals sent to the script reach the trainer, and its exit status is the script's."""
    ready.calls_file.write_text("")
    process = subprocess.Popen(
        ["bash", "scripts/run_cuda_baseline.sh", "configs/some.env"],
        cwd=ready.root, env=ready.env | {"TRAINER_STATUS": "3"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, _ = process.communicate()
    assert json.loads(out)["pid"] == process.pid
    assert process.returncode == 3


# ------------------------------------------------------------------------------------------------ choice of Python


def test_a_python_with_the_packages_is_used_as_it_is(repo):
    repo.has("requirements-cuda.txt")
    done = repo.setup()
    assert done.stdout.strip() == str(repo.bin / "python3")
    assert done.stderr == ""
    assert not repo.venv.exists() and not repo.calls("pip")


def test_otherwise_a_venv_is_made_once(repo):
    done = repo.setup()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(repo.venv / "bin" / "python")
    assert len(repo.calls("-m pip install")) == 1
    again = repo.setup()
    assert again.stdout == done.stdout and again.stderr == ""
    assert not repo.calls("-m pip install") and not repo.calls("-m venv")


def test_an_interrupted_install_is_taken_up_again(repo):
    repo.no_network.touch()
    failed = repo.setup()
    assert failed.returncode == 1
    assert "could not install requirements-cuda.txt" in failed.stderr and "Run the same command again" in failed.stderr
    assert re.search(rf"no matching distribution for Python 3\.\d+\.\S+ on {sys.platform} \w+: rm -r .venv", failed.stderr)
    assert "On a Mac there are packages for arm64 alone" in failed.stderr  # else an x86_64 Python under Rosetta is hard to guess
    repo.no_network.unlink()
    assert repo.setup().returncode == 0
    assert len(repo.calls("-m pip install")) == 1 and not repo.calls("-m venv")


def test_files_are_installed_anew_when_edited_or_when_packages_went_away(repo):
    assert repo.setup("requirements-cuda.txt", "requirements-test.txt").returncode == 0
    with open(repo.root / "requirements-test.txt", "a") as file:
        file.write("# edited\n")
    assert repo.setup("requirements-cuda.txt", "requirements-test.txt").returncode == 0
    assert [line.split()[-1] for line in repo.calls("-m pip install")] == ["requirements-test.txt"]
    (repo.venv / "bin" / "has_requirements-cuda.txt").unlink()
    assert repo.setup("requirements-cuda.txt", "requirements-test.txt").returncode == 0
    assert [line.split()[-1] for line in repo.calls("-m pip install")] == ["requirements-cuda.txt"]


def test_a_half_made_venv_is_made_again(repo):
    repo.venv.mkdir()
    done = repo.setup()
    assert "making it again" in done.stderr
    assert done.stdout.strip() == str(repo.venv / "bin" / "python")


def test_a_venv_that_uv_made_gets_pip_and_is_kept(repo):
    (repo.bin / "rm").symlink_to(shutil.which("rm"))
    (repo.venv / "bin").mkdir(parents=True)
    shutil.copy(repo.bin / "python3", repo.venv / "bin" / "python")
    (repo.venv / "bin" / "no_pip").touch()
    done = repo.setup()
    assert done.stdout.strip() == str(repo.venv / "bin" / "python")
    assert len(repo.calls("-m ensurepip")) == len(repo.calls("-m pip install")) == 1 and not repo.calls("-m venv")


def test_a_python_lends_the_trainers_packages_to_the_venv(repo):
    repo.has("requirements-cuda.txt")
    done = repo.setup("requirements-cuda.txt", "requirements-test.txt")
    assert "uses the packages of requirements-cuda.txt" in done.stderr
    assert (repo.venv / "bin" / "pgl_base_python.pth").read_text() == f"{repo.bin}/site-packages\n"


@pytest.mark.parametrize("age", ["old", "new"])
def test_a_python3_too_old_or_too_new_for_wheels_is_passed_over(repo, age):
    old = repo.root.parent / "old_bin"
    old.mkdir()
    (old / "python3").write_text((repo.bin / "python3").read_text())
    (old / "python3").chmod(0o755)
    (old / age).touch()
    (repo.bin / "python3").rename(repo.bin / "python3.12")
    repo.has("requirements-cuda.txt")
    done = repo.setup(PATH=f"{old}:{repo.bin}")
    assert done.stdout.strip() == str(repo.bin / "python3.12")


def test_no_python_that_is_new_enough(repo):
    (repo.bin / "old").touch()
    done = repo.setup()
    assert done.returncode == 1
    assert "python3 is Python 3.9.6; Python 3.11 or newer is needed" in done.stderr and "PYTHON=" in done.stderr


def test_a_python_too_new_for_wheels_is_better_than_none(repo):
    repo.has("requirements-cuda.txt")
    (repo.bin / "new").touch()
    assert repo.setup().stdout.strip() == str(repo.bin / "python3")


def test_the_python_asked_for_is_taken_or_refused(repo):
    repo.has("requirements-cuda.txt")
    repo.add_python("my_python")
    assert repo.setup(PYTHON="my_python").stdout.strip() == str(repo.bin / "my_python")
    done = repo.setup(PYTHON="/no/python")
    assert done.returncode == 1
    assert "there is no /no/python that runs" in done.stderr


def test_missing_venv_module_names_the_package(repo):
    (repo.bin / "no_venv").touch()
    done = repo.setup()
    assert done.returncode == 1
    assert "sudo apt install python3-venv" in done.stderr
    assert not repo.venv.exists()


def test_real_venv_and_pip_without_a_network(tmp_path):
    """No stand-ins: a small wheel made here goes into a real .venv, and is not installed twice. `user = true` for pip changes nothing."""
    root, wheels = tmp_path / "repo", tmp_path / "wheels"
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "needs.txt").write_text('pgl-test-package==1.0  # why\nother==1 ; sys_platform == "no_such_system"\n')
    wheels.mkdir()
    info = "pgl_test_package-1.0.dist-info"
    with zipfile.ZipFile(wheels / "pgl_test_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pgl_test_package.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pgl-test-package\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    env = os.environ | {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_USER": "1"}
    line = '. scripts/setup_python.sh; setup_python needs.txt; "$PGL_PYTHON" -c "import pgl_test_package"'
    first, second = (
        subprocess.run(["bash", "-euc", line], cwd=root, env=env, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "Successfully installed pgl-test-package-1.0" in first.stderr
    assert (second.returncode, second.stderr) == (0, "")


# ----------------------------------------------------------------------------------------- packages and their pins


def missing_packages(*paths):
    command = [sys.executable, ROOT / "scripts" / "missing_packages.py", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True)


def test_missing_packages(tmp_path):
    from importlib import metadata

    pytest_version = metadata.version("pytest")
    path = tmp_path / "needs.txt"
    path.write_text(f"pytest=={pytest_version}\n")
    assert (missing_packages(path).returncode, missing_packages(path).stderr) == (0, "")
    path.write_text("pytest==0.1  # old\n")
    done = missing_packages(path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"warning: pytest {pytest_version} is installed, {path} pins 0.1\n"
    path.write_text("pytest==0.1\nno-such-package==1\nneither_this[extra]==2\n")
    done = missing_packages(path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "no-such-package==1, neither_this==2\n", "")
    path.write_text("pytest>=1\n")
    assert f"{path}:1: cannot read 'pytest>=1'" in missing_packages(path).stderr


def test_an_empty_folder_is_no_package(tmp_path, monkeypatch):
    """What an uninstalled package may leave behind."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path, folder = tmp_path / "requirements-x.txt", tmp_path / "left_behind"
    path.write_text("left-behind==1\n")
    folder.mkdir()
    assert missing_packages(path).stdout == "left-behind==1\n"
    (folder / "__init__.py").touch()
    done = missing_packages(path)
    assert done.returncode == 0 and "left-behind unknown is installed" in done.stderr


def test_pins_are_readable_and_agree():
    pins = {}
    for name in ("cuda", "mlx", "test"):
        text = (ROOT / f"requirements-{name}.txt").read_text()
        pins[name] = dict(re.findall(r"^([a-z_-]+)(?:\[\w+\])?==(\S+)", text, re.M))
        assert "cannot read" not in missing_packages(ROOT / f"requirements-{name}.txt").stderr
    assert set(pins["cuda"]) - set(pins["mlx"]) == {"torch"} and set(pins["mlx"]) - set(pins["cuda"]) == {"mlx"}
    assert all(pins["mlx"][name] == pin for name, pin in pins["cuda"].items() if name != "torch")


# ------------------------------------------------------------------------------------------------ before a run


def prepare(repo, *arguments, **env):
    command = [sys.executable, "scripts/prepare_run.py", "train_gpt", "--config", "configs/some.env", *arguments]
    return subprocess.run(command, cwd=repo.root, env=os.environ | env, capture_output=True, text=True)


def test_prepare_is_silent_when_all_is_there(ready):
    done = prepare(ready)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_device_is_checked_before_data_are_made(repo):
    done = prepare(repo, "DEVICE=cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert "configs/local_cpu_smoke.env" in done.stderr
    assert not (repo.root / "data" / "datasets").exists()


def test_settings_are_checked_before_the_device(repo):
    assert prepare(repo, "BAD=1", "DEVICE=cuda").stderr == "error: BAD is no setting\n"


@pytest.mark.parametrize(
    "data_path,command",
    [
        ("data/datasets/embedded_sp1024", "data/build_embedded_corpus.py"),
        ("data/datasets/embedded_sp1024/", "data/build_embedded_corpus.py"),
        ("data/datasets/fineweb10B_sp1024", "data/cached_challenge_fineweb.py --variant sp1024 --train-shards 2"),
        ("data/datasets/fineweb10B_byte260", "data/cached_challenge_fineweb.py --variant byte260 --train-shards 2"),
    ],
)
def test_missing_data_are_made_by_their_script(repo, data_path, command):
    done = prepare(repo, f"DATA_PATH={data_path}")
    assert done.returncode == 0, done.stderr
    assert f"running python3 {command}\n" in done.stdout and f"built by {command}\n" in done.stdout
    assert prepare(repo, f"DATA_PATH={data_path}").stdout == ""


@pytest.mark.parametrize("gone", ["*/*/x_val_*.bin", "*/*/x_train_*.bin", "*/*.model"])
def test_each_missing_part_is_noticed(ready, gone):
    for path in (ready.root / "data").glob(gone):
        path.unlink()
    assert "built by" in prepare(ready).stdout


def test_a_folder_that_no_script_fills(repo, tmp_path):
    for data_path in ("elsewhere/tokens", tmp_path / "fineweb10B_sp1024"):
        done = prepare(repo, f"DATA_PATH={data_path}")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"DATA_PATH={data_path}" in done.stderr and "DATA_PATH=data/datasets/embedded_sp1024" in done.stderr


@pytest.mark.parametrize(
    "how,text", [("fails", "ended with exit status 1"), ("half", "still is no data/datasets/embedded_sp1024/*_train_")]
)
def test_a_builder_that_does_not_deliver(repo, how, text):
    done = prepare(repo, BUILDER=how)
    assert done.returncode == 2
    assert text in done.stderr


TOOLS = "campaign check_submission compare_runs leaderboard make_record pack_code profile_step report sweep_export".split()


@pytest.mark.parametrize("name", TOOLS)
def test_an_interrupted_tool_says_so_without_a_traceback(monkeypatch, capsys, name):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    pytest.importorskip(name)
    import argparse
    import runpy

    import train_gpt

    def interrupt(*args):
        raise KeyboardInterrupt

    for parse in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, parse, interrupt)
    monkeypatch.setattr(train_gpt, "load_settings", interrupt)
    monkeypatch.setattr("sys.argv", [name])
    with pytest.raises(SystemExit) as e:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert (e.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_what_compiling_lacks_is_told_before_the_run(ready):
    done = prepare(ready, "COMPILE=on", PATH="", CC="none")
    assert done.returncode == 0
    if sys.platform == "linux":
        assert "warning: torch.compile will fail" in done.stderr and "no C compiler" in done.stderr and "apt install" in done.stderr
    assert prepare(ready, "COMPILE=off", PATH="", CC="none").stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="apt is for Linux")
@pytest.mark.parametrize("compiler,header,words", [
    ("gcc", True, ""),
    ("gcc", False, "there is no {include}/Python.h (this Python's headers); Debian/Ubuntu: sudo apt install gcc g++ python{minor}-dev"),
    (None, True, "there is no C compiler; Debian/Ubuntu: sudo apt install gcc g++ python{minor}-dev"),
])  # fmt: skip
def test_what_compiling_lacks(monkeypatch, tmp_path, compiler, header, words):
    from golf import needs

    monkeypatch.setattr(needs.shutil, "which", lambda name: compiler)
    monkeypatch.setattr(needs.sysconfig, "get_path", lambda name: str(tmp_path))
    if header:
        (tmp_path / "Python.h").touch()
    assert needs.compiling_lacks() == words.format(include=tmp_path, minor="{}.{}".format(*sys.version_info))


def test_a_broken_package_is_named(repo):
    (repo.root / "train_gpt.py").write_text("import no_such_package\n")
    done = prepare(repo)
    assert done.returncode == 1
    assert "No module named 'no_such_package'" in done.stderr and "PYTHON=" in done.stderr


def test_real_trainer_without_cuda_names_the_cpu_config(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA, so the message for machines without it cannot show")
    (tmp_path / "cuda.env").write_text(f"DEVICE=cuda\nDATA_PATH={tmp_path}/none\n")
    command = [sys.executable, "scripts/prepare_run.py", "train_gpt", "--config", str(tmp_path / "cuda.env")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "configs/local_cpu_smoke.env" in done.stderr


# ----------------------------------------------------------------------------------------------- tests and shell


@pytest.mark.parametrize("ruff,pytest_status,expected", [(0, 0, 0), (1, 0, 1), (0, 5, 5), (1, 5, 5)])
def test_test_script_forwards_and_fails_when_either_part_does(ready, ruff, pytest_status, expected):
    for name, status in (("ruff", ruff), ("pytest", pytest_status)):
        (ready.root / f"{name}.py").write_text(f"import sys; print('{name}', sys.argv[1:]); sys.exit({status})")
    (ready.bin / "shellcheck").symlink_to(shutil.which("true"))
    done = ready.bash("scripts/test.sh", "-k", "two words")
    assert re.search(r"^pytest \[.*, '-k', 'two words'\]$", done.stdout, re.M)
    assert done.returncode == expected, done.stderr


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_is_clean(path):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (requirements-test.txt)")
    done = subprocess.run([shellcheck, path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_runs_in_bash_3(path):
    """macOS has bash 3.2: no associative arrays, mapfile, case conversion, negative indices or |&."""
    newer = r"declare -[Agn]|local -[An]|mapfile|readarray|\$\{\w+(,,|\^\^|@)|\|&|&>>|\[-1\]|wait -n|coproc"
    assert not re.findall(newer, path.read_text())
    if path.name not in ("setup_python.sh", "run_baseline.sh", "bare_python.sh"):  # those are sourced
        assert "\nset -euo pipefail\n" in path.read_text()


@pytest.mark.parametrize("name", ["campaign", "compare_runs"])
def test_a_python_too_old_is_named_and_the_right_one_too(monkeypatch, capsys, name):
    """As the python3 of macOS, 3.9, which has no tomllib and gets no packages."""
    import importlib

    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(sys, "version_info", (3, 9, 6))
    for module in ("campaign", "compare_runs", "golf.campaigns", "golf.significance", "golf.stats"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in ("tomllib", "scipy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as e:
        importlib.import_module(name)
    said = capsys.readouterr().err
    assert e.value.code == 2 and said.startswith(f"error: {name}.py needs Python 3.11 or newer, and ")
    assert "source .venv/bin/activate" in said and said.count("\n") == 1


@pytest.mark.parametrize("folder, module", [("scripts", "golf.interrupts"), ("data", "prep.console")])
def test_an_old_locale_stops_no_tool(folder, module):
    """Under LC_ALL=en_US, which is ISO 8859-1, stdout has no …, as the output of compare_runs does."""
    line = f"from {module} import tool_main; tool_main(lambda: print('sha256 1234\u2026'))"
    env = os.environ | {"PYTHONIOENCODING": "iso8859-1", "PYTHONPATH": str(ROOT / folder)}
    done = subprocess.run([sys.executable, "-c", line], env=env, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"sha256 1234\\u2026" + os.linesep.encode()), done.stderr


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_package_names_what_to_type(monkeypatch, tmp_path, capsys, there):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from golf import needs

    monkeypatch.setattr(needs, "VENV", tmp_path / ".venv")
    if there:
        (tmp_path / ".venv").mkdir()
    with pytest.raises(SystemExit) as e:
        needs.refuse("x.py", "scipy", "a.txt b.txt")
    said = capsys.readouterr().err
    assert e.value.code == 2 and said.endswith("python3 -m pip install -r a.txt -r b.txt\n")
    assert said.startswith("error: x.py needs scipy; type: ") and ("source .venv/bin/activate" in said) == there


WITHOUT_NUMPY = "import runpy, sys; sys.modules['numpy'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*.py")), ids=lambda path: path.name)
def test_a_data_tool_on_a_bare_machine_says_what_to_type(path):
    env = os.environ | {"PYTHONPATH": str(path.parent)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY, str(path), "--help"], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and " lacks numpy; type: source .venv/bin/activate" in done.stderr and done.stderr.count("\n") == 1


def test_the_referee_on_a_bare_machine_helps_and_says_what_it_needs():
    env, script = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}, str(ROOT / "scripts" / "referee.py")
    command = [sys.executable, "-c", WITHOUT_NUMPY, script]
    helped, refused = (subprocess.run([*command, arg], env=env, capture_output=True, text=True) for arg in ("--help", "x"))
    assert (helped.returncode, helped.stderr) == (0, "") and "bash scripts/rescore.sh" in helped.stdout
    assert refused.returncode == 2 and refused.stderr.startswith("error: the referee needs numpy; type: ")


@pytest.mark.parametrize("name", ["missing_packages", "prepare_run", "settings_doc", "sync_twins"])
def test_what_other_scripts_call_has_a_help_too(name):
    done = subprocess.run([sys.executable, ROOT / "scripts" / f"{name}.py", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and f"python3 scripts/{name}.py" in done.stdout


def test_gpu_evidence_asks_the_referee(tmp_path):
    """With the data of the runs; a record that is refused does not keep the next from its verdict."""
    stub = tmp_path / "python3"
    stub.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nprintf "<%s>" "$@"\necho\n[ "$2" != bad ]\n')
    stub.chmod(0o755)
    env, out = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PARTS": "referee", "RECORDS": "bad good"}, tmp_path / "o ut"
    command = ["bash", ROOT / "scripts" / "gpu_evidence.sh", out, "DATA_PATH=/a b/c", "TOKENIZER_PATH=t.model", "VAL_TOKENS=9"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    where = "<--data></a b/c><--tokenizer><t.model><--json>"
    assert done.returncode == 1 and [line for line in done.stdout.splitlines() if line.startswith("<")] == [
        f"<scripts/referee.py><{name}>{where}<{out}/{name}.verdict.json>" for name in ("bad", "good")
    ]

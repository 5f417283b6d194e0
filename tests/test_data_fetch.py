"""Promise: a fetched file is right or absent. The real huggingface_hub client against a hub-like server on 127.0.0.1."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from data_helpers import ROOT, failed, ok
from hub_server import COMMIT, HubServer

REPO = "someone/small-golf"
BUNDLE = "parameter-golf-local/bundle-1"
TOOL = ROOT / "data" / "cached_challenge_fineweb.py"
BASE = "datasets/datasets/fineweb10B_sp512/"
TRAIN0 = BASE + "fineweb_train_000000.bin"
VAL0 = BASE + "fineweb_val_000000.bin"
MODEL = "datasets/tokenizers/fineweb_512_bpe.model"


def shard_bytes(count: int, seed: int, top: int = 512) -> bytes:
    head = np.zeros(256, "<i4")
    head[:3] = 20240520, 1, count
    tokens = np.random.default_rng(seed).integers(4, top, count).astype("<u2")
    tokens[::100] = 1
    return head.tobytes() + tokens.tobytes()


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> dict[str, bytes]:
    """A whole small repository: 3 train shards, 1 validation shard, tokenizers, manifest, documents."""
    prefix = tmp_path_factory.mktemp("tokenizer") / "t"
    words = [f"word{i} " * 3 + "the quick brown fox jumps over a lazy dog" for i in range(400)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_prefix=str(prefix), vocab_size=300, model_type="bpe", byte_fallback=True,
        bos_id=1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    model = prefix.with_suffix(".model").read_bytes()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    name = f"fineweb10B_sp{pieces}"
    published = {
        "datasets": [
            {"name": name, "tokenizer_name": "bpe", "stats": {"files_train": 3, "files_val": 1}},
            {"name": "fineweb10B_byte260", "tokenizer_name": "pure", "stats": {"files_train": 1, "files_val": 1}},
        ],
        "tokenizers": [
            {"name": "bpe", "model_path": "tokenizers/f.model", "vocab_path": "tokenizers/f.vocab"},
            {"name": "pure", "path": "tokenizers/pure_byte_260.json"},
        ],
    }
    files = {
        "datasets/manifest.json": json.dumps(published).encode(),
        "datasets/tokenizers/f.model": model,
        "datasets/tokenizers/f.vocab": b"pieces",
        "datasets/tokenizers/pure_byte_260.json": json.dumps({"vocab_size": 260, "bos_id": 1}).encode(),
        "datasets/docs_selected.jsonl": b'{"text": "one"}\n',
    }
    for i in range(3):
        files[f"datasets/datasets/{name}/fineweb_train_{i:06d}.bin"] = shard_bytes(200_000, i, pieces)
    files[f"datasets/datasets/{name}/fineweb_val_000000.bin"] = shard_bytes(50_000, 9, pieces)
    for split in ("train", "val"):
        files[f"datasets/datasets/fineweb10B_byte260/fineweb_{split}_000000.bin"] = shard_bytes(5_000, 20, 260)
    return files


class Place:
    """A server, an empty data folder, and the tool run on both."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self.hub, self.home, self.root = hub, home, home / "data"
        name = next(p for p in hub.files if "fineweb10B_sp" in p).split("/")[2]
        self.variant = name.removeprefix("fineweb10B_")
        self.folder = self.root / "datasets" / name
        self.remote = f"datasets/datasets/{name}/"
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url,
            "MATCHED_FINEWEB_REPO_ID": REPO, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        }  # fmt: skip

    def command(self, *args: str) -> list[str]:
        variant = () if "--variant" in args else ("--variant", self.variant)
        shards = () if "--train-shards" in args else ("--train-shards", "1")
        options = ("--data-root", str(self.root), "--retry-wait", "0.05", "--retries", "2")
        return [sys.executable, str(TOOL), *variant, *shards, *options, *args]

    def run(self, *args: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(*args), env=self.environment | more, capture_output=True, text=True, timeout=60)

    def start(self, *args: str, **more: str) -> subprocess.Popen:
        return subprocess.Popen(self.command(*args), env=self.environment | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def local(self, remote: str) -> Path:
        return self.root / remote.removeprefix("datasets/")

    def assert_no_wrong_file(self) -> None:
        """Every file under its own name is, byte for byte, what the repository holds."""
        for path in self.root.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
            if path.is_file() and not hidden and path != self.folder / "manifest.json":
                assert path.read_bytes() == self.hub.files["datasets/" + path.relative_to(self.root).as_posix()], path

    def assert_complete(self, train_shards: int = 1) -> None:
        self.assert_no_wrong_file()
        shards = sorted(p.name for p in self.folder.glob("*.bin"))
        assert shards == [f"fineweb_train_{i:06d}.bin" for i in range(train_shards)] + ["fineweb_val_000000.bin"]
        assert not list(self.root.rglob("*.part"))
        manifest = json.loads((self.folder / "manifest.json").read_text())
        assert manifest["format"] == "parameter-golf-local/dataset-1"
        assert [entry["path"] for entry in manifest["files"]] == shards
        for entry in manifest["files"]:
            data = (self.folder / entry["path"]).read_bytes()
            assert entry["sha256"] == hashlib.sha256(data).hexdigest()
            assert (entry["size"], entry["tokens"]) == (len(data), (len(data) - 1024) // 2)
            assert entry["split"] in entry["path"]


@pytest.fixture
def place(repository, tmp_path):
    with HubServer(REPO, dict(repository)) as hub:
        yield Place(hub, tmp_path)


@pytest.mark.parametrize("linked", ["datasets", "tokenizers", "dataset", "root", "nothing, root relative"])
def test_folders_may_be_symlinks_to_another_disk(place, tmp_path, monkeypatch, linked):
    """Nothing is fetched twice, and verifying and bundling work, though `..` behind a symlink leads elsewhere."""
    disk, where = tmp_path / "another" / "disk", {"tokenizers": place.root / "tokenizers", "dataset": place.folder, "root": place.root}
    disk.mkdir(parents=True)
    if "relative" in linked:
        monkeypatch.chdir(tmp_path)
        place.root = Path(place.root.name)
    else:
        link = where.get(linked, place.root / "datasets")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(disk)
    ok(place.run())
    seen = len(place.hub.requests)
    assert "nothing to do" in ok(place.run()) and len(place.hub.requests) == seen
    ok(place.run("--verify"))
    ok(place.run("--bundle", str(tmp_path / "b.tar")))
    place.root = tmp_path / "restored"
    ok(place.run("--from-bundle", str(tmp_path / "b.tar")))
    ok(place.run("--verify"))


def test_full_download_then_nothing_to_do_then_more_shards_then_verify(place):
    ok(place.run())
    place.assert_complete(1)
    manifest = json.loads((place.folder / "manifest.json").read_text())
    assert manifest["source"] == {"hub_repo": REPO, "revision": COMMIT}
    assert manifest["tokenizer"]["path"] == "../../tokenizers/f.model"
    assert (place.root / "tokenizers" / "f.vocab").read_bytes() == b"pieces"

    before = len(place.hub.requests)
    assert "nothing to do" in ok(place.run())
    assert len(place.hub.requests) == before  # not one request

    ok(place.run("--train-shards", "3"))
    place.assert_complete(3)
    assert len(place.hub.gets(place.remote + "fineweb_train_000000.bin")) == 1  # not fetched again

    (place.folder / "fineweb_val_000000.bin").unlink()
    ok(place.run("--train-shards", "1"))
    place.assert_complete(3)  # a call that asks for less forgets nothing

    assert "as recorded" in ok(place.run("--verify"))
    shard = place.folder / "fineweb_train_000001.bin"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    failed(place.run("--verify"), "fineweb_train_000001.bin", "sha256")


def put_elsewhere(place, repo: str, revision: str, commit: str) -> dict[str, bytes]:
    """What another repository or revision holds: other tokens in validation and the first train shard, all else alike."""
    files = dict(place.hub.files)
    for name in ("fineweb_val_000000.bin", "fineweb_train_000000.bin"):
        files[place.remote + name] = files[place.remote + name][:-2] + b"\x07\0"
    for asked in (revision, commit):
        place.hub.elsewhere[repo, asked] = commit, files
    return files


@pytest.mark.parametrize(("repo", "revision"), [(REPO, "second"), (REPO, "c" * 40), ("someone/other", "main")])
def test_another_repository_or_revision_is_fetched(place, repo, revision):
    ok(place.run("--train-shards", "2"))
    place.hub.files = put_elsewhere(place, repo, revision, "c" * 40)
    options = ("--train-shards", "1", *(() if revision == "main" else ("--revision", revision)))
    out = ok(place.run(*options, MATCHED_FINEWEB_REPO_ID=repo))
    assert f"is from {REPO} revision {COMMIT}; looking whether {repo} revision {revision} has the same" in out
    place.assert_complete(2)  # the second train shard is the same there, and stays
    manifest = json.loads((place.folder / "manifest.json").read_text())
    assert manifest["source"] == {"hub_repo": repo, "revision": "c" * 40}
    for same in ((), ("--revision", "c" * 40)):
        assert "nothing to do" in ok(place.run(*same, MATCHED_FINEWEB_REPO_ID=repo))


def test_shards_of_another_source_are_named_and_nothing_is_mixed(place):
    ok(place.run("--train-shards", "3"))
    files = put_elsewhere(place, REPO, "second", "c" * 40)
    files[place.remote + "fineweb_train_000001.bin"] = files[place.remote + "fineweb_train_000000.bin"]
    del files[place.remote + "fineweb_train_000002.bin"]
    before = {path: path.read_bytes() for path in place.folder.iterdir()}
    words = ("has fineweb_train_000001.bin, fineweb_train_000002.bin of another source than", "delete what is named here", "--train-shards")
    failed(place.run("--revision", "second"), *words)
    assert {path: path.read_bytes() for path in place.folder.iterdir()} == before

    place.hub.faults[place.remote + "fineweb_train_000000.bin"] = [("forever", ("status", 503))]
    for i in (1, 2):
        (place.folder / f"fineweb_train_00000{i}.bin").unlink()
    failed(place.run("--revision", "second"), "gave up")
    place.hub.faults.clear()
    ok(place.run())  # validation of the second revision is there already, under no manifest
    place.assert_complete()


def test_a_byte_variant_and_the_documents(place):
    ok(place.run("--variant", "byte260", "--with-docs"))
    manifest = json.loads((place.root / "datasets/fineweb10B_byte260/manifest.json").read_text())
    assert manifest["tokenizer"]["kind"] == "byte"
    assert manifest["tokenizer"]["vocab_size"] == 260
    assert manifest["tokenizer"]["path"] == "../../tokenizers/pure_byte_260.json"
    assert (place.root / "docs_selected.jsonl").read_bytes() == b'{"text": "one"}\n'


def test_a_connection_cut_within_a_call_is_continued(place):
    path = place.remote + "fineweb_train_000000.bin"
    place.hub.files[path] = shard_bytes(6_000_000, 5, 260)
    place.hub.faults[path] = [("cut", 11_000_000)]
    ok(place.run())
    place.assert_complete()
    assert place.hub.gets(path) == [None, f"bytes={10 << 20}-"]  # the client writes in steps of 10 MiB


def test_a_killed_download_is_continued_by_the_next_call(place):
    path = place.remote + "fineweb_train_000000.bin"
    place.hub.files[path] = shard_bytes(6_000_000, 5, 260)
    place.hub.faults[path] = [("cut", 11_000_000), ("forever", ("status", 503))]
    failed(place.run(), "503", "gave up", "what has arrived is kept")
    place.assert_no_wrong_file()
    assert not place.local(path).exists()
    kept = sum(part.stat().st_size for part in place.folder.glob(".*.part"))
    assert kept == 10 << 20
    place.hub.faults.clear()
    ok(place.run())
    place.assert_complete()
    assert place.hub.gets(path)[-1] == f"bytes={kept}-"


def test_interrupt_leaves_nothing_under_its_name(place):
    place.hub.hold.clear()
    process = place.start()
    deadline = time.monotonic() + 30
    while not place.hub.gets(place.remote + "fineweb_train_000000.bin") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    place.hub.hold.set()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not place.local(place.remote + "fineweb_train_000000.bin").exists()  # it did not wait for the rest
    place.assert_no_wrong_file()
    ok(place.run())
    place.assert_complete()


@pytest.mark.parametrize("stalled", ["shards", "manifest"])
def test_interrupt_does_not_wait_for_a_hub_that_stalls(place, stalled):
    path = place.remote + "fineweb_train_000000.bin" if stalled == "shards" else "datasets/manifest.json"
    if stalled == "manifest":
        place.hub.faults[path] = [("stall", None)]
    place.hub.hold.clear()
    process = place.start(HF_HUB_DOWNLOAD_TIMEOUT="50")
    deadline = time.monotonic() + 30
    while not place.hub.gets(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)  # now it waits for the answer
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=40)
    assert time.monotonic() - start < 5  # a second, on a machine that has nothing else to do
    assert process.returncode == 130 and "Traceback" not in errors, errors
    parts = list(place.root.rglob(".*.part"))
    kept = f"{len(parts)} unfinished file{'s'[: len(parts) != 1]} ("
    assert errors.startswith("interrupted; files that are complete") and kept in errors and "continues" in errors, errors
    assert len(parts) == (2 if stalled == "shards" else 1), parts
    place.assert_no_wrong_file()
    place.hub.hold.set()
    place.hub.faults.clear()
    ok(place.run())
    place.assert_complete()


def test_parts_of_other_versions_are_removed_wherever_they_are(place):
    """Those of a fetch alone: the tokenizer another tool is just writing, and other variants' parts, stay."""
    stale = [place.folder / ".fineweb_train_000007.bin.0123456789abcdef.part", place.root / ".manifest.json.0123456789abcdef.part"]
    stale += [place.root / "tokenizers" / name for name in (".f.model.0123456789abcdef.part", ".f.vocab.cached.part")]
    others = [place.root / "tokenizers" / name for name in (".f.model.01234567.part", ".pure_byte_260.json.0123456789abcdef.part")]
    for path in stale + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    ok(place.run())
    assert [path for path in stale + others if path.exists()] == others
    assert sorted(place.root.rglob(".*.part")) == sorted(others)


@pytest.mark.parametrize("status", [429, 500])
def test_a_refusal_that_passes_is_retried(place, status):
    place.hub.head_faults[place.remote + "fineweb_val_000000.bin"] = [("status", status)]
    place.hub.faults[place.remote + "fineweb_train_000000.bin"] = [("status", status)]
    out = ok(place.run())
    assert f"the hub answered {status}; retry 1 of 2" in out
    place.assert_complete()


def test_503_for_ever_gives_up_with_a_clear_message(place):
    place.hub.head_faults["datasets/manifest.json"] = [("forever", ("status", 503))]
    failed(place.run(), "503", "3 times; gave up", place.hub.url, "HF_ENDPOINT")
    assert not list(place.root.rglob("*.bin"))


def test_no_server_at_all_gives_up_with_a_clear_message(place):
    failed(place.run(HF_ENDPOINT="http://127.0.0.1:9"), "no connection", "gave up", "python3 data/build_embedded_corpus.py")


def test_a_host_that_cannot_be_found_is_said_at_once(place):
    done = place.run("--retry-wait", "50", HF_ENDPOINT="http://no-such-host.invalid")  # in less than the test's timeout
    failed(done, "http://no-such-host.invalid (HF_ENDPOINT) cannot be found", "python3 data/build_embedded_corpus.py")
    assert "retry" not in done.stdout and not (place.root / "datasets").exists()


def test_a_name_that_cannot_be_resolved_for_a_while_is_retried_later_on(place):
    """Once the hub has answered, its name is known to be right."""
    code = (
        "import socket, sys; sys.path.insert(0, sys.argv[1])\n"
        "import cached_challenge_fineweb as tool; from prep import console\n"
        "transfer, left = tool.Hub._transfer, [1]\n"
        "def failing(*args):\n"
        "    if left: left.pop(); raise ConnectionError from socket.gaierror(-3, 'for a while')\n"
        "    return transfer(*args)\n"
        "tool.Hub._transfer = failing; sys.exit(console.tool_main(lambda: tool.run(sys.argv[2:])))"
    )
    command = [sys.executable, "-c", code, str(TOOL.parent), *place.command()[2:]]
    out = ok(subprocess.run(command, env=place.environment, capture_output=True, text=True, timeout=60))
    assert "no connection (ConnectionError: ); retry 1 of 2" in out
    place.assert_complete()


def test_wrong_bytes_are_never_accepted(place):
    path = place.remote + "fineweb_val_000000.bin"
    wrong = bytearray(place.hub.files[path])
    wrong[-1] ^= 1
    place.hub.faults[path] = [("forever", ("body", bytes(wrong)))]
    failed(place.run(), "sha256 is not the hub's", "gave up")
    assert not place.local(path).exists()
    place.assert_no_wrong_file()
    place.hub.faults[path] = [("body", bytes(wrong))]
    ok(place.run())  # once wrong, then right
    place.assert_complete()


def test_a_truncated_file_is_never_accepted(place):
    path = place.remote + "fineweb_val_000000.bin"
    place.hub.faults[path] = [("forever", ("body", place.hub.files[path][:-200]))]
    failed(place.run(), "announced")
    assert not place.local(path).exists()
    place.assert_no_wrong_file()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"\0" * 4 + data[4:], ("magic",)),
        (lambda data: data[:-2], ("header says",)),
        (lambda data: data[:-2] + b"\xff\xff", ("token 65535 at position 49999",)),
    ],
)
def test_a_published_shard_that_is_wrong_itself_is_refused(place, spoil, words):
    path = place.remote + "fineweb_val_000000.bin"
    place.hub.files[path] = spoil(place.hub.files[path])
    failed(place.run("--retries", "0"), *words)
    assert not place.local(path).exists()


def test_a_tokenizer_of_another_size_is_refused(place):
    for path in list(place.hub.files):
        if place.variant in path:
            place.hub.files[path.replace(place.variant, "sp999")] = place.hub.files[path]
    listing = place.hub.files["datasets/manifest.json"].replace(place.variant.encode(), b"sp999")
    place.hub.files["datasets/manifest.json"] = listing
    failed(place.run("--variant", "sp999", "--retries", "0"), "f.model", "pieces; this variant has 999")
    assert not (place.root / "tokenizers" / "f.model").exists()


def test_what_the_manifest_lacks_is_named(place):
    failed(place.run("--variant", "sp4096"), "no dataset fineweb10B_sp4096", "fineweb10B_byte260")
    assert not (place.root / "datasets").exists()
    failed(place.run("--train-shards", "9"), "--train-shards 9", "has 3")
    failed(place.run("--variant", "bpe"), "try --variant sp1024")
    del place.hub.files[place.remote + "fineweb_train_000000.bin"]
    failed(place.run(), "fineweb_train_000000.bin is not in", REPO)
    place.hub.files["datasets/manifest.json"] = b"<html>"
    failed(place.run("--retries", "0"), "not JSON")


@pytest.mark.parametrize("spoilt", [b'"stats": [1], "was"', b'"stats": "1", "was"', b'"stats": 1, "was"'])
def test_a_published_manifest_of_other_types_is_refused(place, spoilt):
    place.hub.files["datasets/manifest.json"] = place.hub.files["datasets/manifest.json"].replace(b'"stats"', spoilt)
    failed(place.run("--retries", "0"), "the published manifest says stats.files_train=None")


def test_a_published_manifest_that_is_nested_too_deeply_is_refused(place):
    place.hub.files["datasets/manifest.json"] = b"[" * 200_000
    failed(place.run("--retries", "0"), "the published manifest is not JSON")


def test_a_manifest_cannot_write_outside_the_data_folder(place):
    listing = place.hub.files["datasets/manifest.json"].replace(b"tokenizers/f.vocab", b"../../f.vocab")
    place.hub.files["datasets/manifest.json"] = listing
    failed(place.run(), "no relative path")


def test_too_little_disk_is_said_before_the_download(place, monkeypatch, capsys):
    code = (
        "import shutil, sys, collections; sys.path.insert(0, sys.argv[1]); "
        "shutil.disk_usage = lambda path: collections.namedtuple('U', 'total used free')(10**9, 10**9, 1000); "
        "import cached_challenge_fineweb as tool; from prep import console; sys.exit(console.tool_main(lambda: tool.run(sys.argv[2:])))"
    )
    command = [sys.executable, "-c", code, str(TOOL.parent), *place.command()[2:]]
    failed(subprocess.run(command, env=place.environment, capture_output=True, text=True), "free on the disk of")
    assert not place.hub.gets(place.remote + "fineweb_train_000000.bin")


def test_a_disk_that_fills_up_leaves_no_wrong_file(place):
    """A limit on file size makes the write fail part-way, as a full disk does."""
    path = place.remote + "fineweb_train_000000.bin"
    code = (
        "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, *place.command()[1:]]
    result = subprocess.run(command, env=place.environment, capture_output=True, text=True)
    failed(result, "the disk is full", "it continues")
    assert not place.local(path).exists()
    place.assert_no_wrong_file()
    ok(place.run())
    place.assert_complete()


def test_two_downloads_at_once_fetch_each_file_once(place):
    first, second = place.start(), place.start()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    place.assert_complete()
    assert len(place.hub.gets(place.remote + "fineweb_train_000000.bin")) == 1


def test_offline_uses_the_cache_and_says_what_is_missing(place, repository):
    failed(place.run(HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set", "--from-bundle")
    fill = "import sys, huggingface_hub as h\nfor path in sys.argv[2:]: h.hf_hub_download(sys.argv[1], path, repo_type='dataset')"
    wanted = [p for p in repository if "byte260" not in p and "docs" not in p and "00000[12]" not in p]
    subprocess.run([sys.executable, "-c", fill, REPO, *wanted], env=place.environment, check=True, capture_output=True)
    place.hub.requests.clear()
    ok(place.run(HF_HUB_OFFLINE="1"))
    place.assert_complete()
    assert place.hub.requests == []


def test_a_cached_copy_is_used_online_and_checked(place):
    path = place.remote + "fineweb_train_000000.bin"
    fill = "import sys, huggingface_hub as h; print(h.hf_hub_download(*sys.argv[1:], repo_type='dataset'))"
    done = subprocess.run([sys.executable, "-c", fill, REPO, path], env=place.environment, check=True, capture_output=True, text=True)
    ok(place.run())
    place.assert_complete()
    assert len(place.hub.gets(path)) == 1  # by the cache, not again by the tool
    place.local(path).unlink()
    cached = Path(done.stdout.strip())
    cached.write_bytes(b"x" * cached.stat().st_size)
    ok(place.run())  # a spoilt cache is not believed
    place.assert_complete()


def test_bundle_and_restore(place, tmp_path):
    ok(place.run())
    bundle = tmp_path / "bundle.tar"
    ok(place.run("--bundle", str(bundle)))
    kept = {p.relative_to(place.root): p.read_bytes() for p in place.root.rglob("*") if p.is_file() and p.suffix != ".lock"}
    place.root = tmp_path / "elsewhere"
    place.folder = place.root / "datasets" / place.folder.name
    ok(place.run("--from-bundle", str(bundle), HF_ENDPOINT="http://127.0.0.1:9"))
    found = {p.relative_to(place.root): p.read_bytes() for p in place.root.rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert found == kept
    assert "nothing to do" in ok(place.run(HF_ENDPOINT="http://127.0.0.1:9"))


def test_a_spoilt_bundle_is_refused(place, tmp_path):
    ok(place.run())
    bundle = tmp_path / "bundle.tar"
    ok(place.run("--bundle", str(bundle)))
    whole = bundle.read_bytes()
    val = (place.folder / "fineweb_val_000000.bin").read_bytes()
    at = whole.index(val)
    spoilt = {
        "flipped": (whole[: at + 5000] + bytes([whole[at + 5000] ^ 1]) + whole[at + 5001 :], "sha256"),
        "cut": (whole[: at + 5000], "copy"),
        "no_bundle": (b"hello" * 1000, "bundle"),
    }
    for name, (data, word) in spoilt.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        place.root = tmp_path / name
        failed(place.run("--from-bundle", str(path)), word)
        assert not (place.root / "datasets" / place.folder.name / "fineweb_val_000000.bin").exists()
        assert not (place.root / "datasets" / place.folder.name / "manifest.json").exists()
        assert not list(place.root.rglob("*.part"))


def test_a_spoilt_bundle_changes_nothing_of_what_is_there(place, tmp_path):
    """A dataset of other shards with the same names and sizes stands there."""
    ok(place.run())
    bundle = tmp_path / "bundle.tar"
    ok(place.run("--bundle", str(bundle)))
    whole = bundle.read_bytes()
    with tarfile.open(bundle) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    place.root = tmp_path / "elsewhere"
    place.folder = place.root / "datasets" / place.folder.name
    for path in list(place.hub.files):
        if path.startswith(place.remote):
            place.hub.files[path] = place.hub.files[path][:-2] + b"\x07\0"
    ok(place.run())

    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in place.root.rglob("*") if p.is_file() and p.suffix != ".lock"}

    before = files()
    index = json.loads(members["bundle.json"])
    manifest_name = f"datasets/{place.folder.name}/manifest.json"

    def remade(manifest: bytes) -> bytes:
        """A bundle that fits together but for what its dataset manifest says."""
        made = members | {manifest_name: manifest}
        listed = [(path, made[path]) for path in (entry["path"] for entry in index["files"])]
        listed = [{"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in listed]
        write_tar(tmp_path / "made.tar", made | {"bundle.json": json.dumps(index | {"files": listed}).encode()})
        return (tmp_path / "made.tar").read_bytes()

    manifest = json.loads(members[manifest_name])
    train = manifest["files"][0] | {"sha256": "0" * 64}
    spoilt = {
        "cut": (whole[: whole.index(members[manifest_name])], "nothing of it was used"),
        "foreign": (remade(b"{}"), "not a dataset manifest of format"),
        "other": (remade(json.dumps(manifest | {"files": [train]}).encode()), "is not as its"),
    }
    for name, (data, words) in spoilt.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        failed(place.run("--from-bundle", str(tmp_path / f"{name}.tar")), words)
        assert files() == before, name
    ok(place.run("--from-bundle", str(bundle)))
    assert files() != before and (place.folder / "manifest.json").read_bytes() == members[manifest_name]
    assert "as recorded" in ok(place.run("--verify"))


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"[" * 200_000, "is not a bundle; make one with --bundle FILE"),
        (b"[1]", "its format is missing, and parameter-golf-local/bundle-1 is read"),
        (b'{"format": "bundle-9", "files": []}', "its format is 'bundle-9'"),
        (b'{"format": "FORMAT"}', "files in its index is missing, not a list"),
        (b'{"format": "FORMAT", "files": [7]}', "its index has 7; each file has a path"),
        (b'{"format": "FORMAT", "files": [{"path": "tokenizers/a", "size": 1e400, "sha256": "0"}]}', "'size': inf"),
        (b'{"format": "FORMAT", "files": [{"path": 7, "size": 1, "sha256": "0"}]}', "'path': 7"),
        (b'{"format": "FORMAT", "files": [{"path": "tokenizers/a", "size": -1, "sha256": "0"}]}', "'size': -1"),
    ],
)
def test_a_bundle_whose_index_is_wrong_is_refused(place, tmp_path, index, words):
    write_tar(tmp_path / "odd.tar", {"bundle.json": index.replace(b"FORMAT", BUNDLE.encode())})
    failed(place.run("--from-bundle", str(tmp_path / "odd.tar")), "odd.tar", words)


def test_a_bundle_cannot_write_outside_the_data_folder(place, tmp_path):
    for name in ("../evil.bin", "/evil.bin", "datasets/../../evil.bin", "datasets/a/../../../evil"):
        bundle = tmp_path / "evil.tar"
        files = [{"path": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}]
        write_tar(bundle, {"bundle.json": json.dumps({"format": BUNDLE, "files": files}).encode(), name: b"x"})
        failed(place.run("--from-bundle", str(bundle)), "outside datasets/")
    assert not list(tmp_path.rglob("evil*.bin"))

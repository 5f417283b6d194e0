"""scripts/profile_step.py: a table whose parts make the whole, and options of the compiler."""

import re

import folders  # noqa: F401  puts scripts/ on the path
import profile_step
import pytest
import torch

import train_gpt


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["profile_step.py", *map(str, arguments)])
    status = profile_step.main()
    return (status, *capsys.readouterr())


def test_the_parts_make_the_step(tiny, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, *tiny.settings(CONV_TAPS=3, HEAD_GATE=12, VALUE_EMBED=1))
    assert status == 0, err
    rows = {name.strip(): float(ms) for name, ms in re.findall(r"^\| ([a-z ]+?) *\| (-?[\d.]+) \|", out, re.M)}
    assert {"matrix products", "elementwise and rest", "optimizer", "idle", "whole step"} <= set(rows)
    whole = rows.pop("whole step")
    assert sum(rows.values()) == pytest.approx(whole, abs=0.05)  # each is rounded to a hundredth
    assert "times its roofline time" in out
    longest = [float(ms) for ms in re.findall(r"^\| .* \| \d+ \| ([\d.]+) \| [a-z ]+ \|$", out, re.M)]
    assert len(longest) == profile_step.LONGEST and longest == sorted(longest, reverse=True) and longest[0] > 0


@pytest.mark.parametrize(
    "name, kind",
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26", "attention"),
        ("void cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*)", "attention"),
        ("triton_per_fused__scaled_dot_product_cudnn_attention_backward_mul_sigmoid_9", "elementwise and rest"),
        ("triton_per_fused__fused_rms_norm_backward__to_copy_add_mm_mul_roll_select_20", "elementwise and rest"),
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NNN", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "matrix products"),
        ("aten::mm", "matrix products"),
        ("## Call CompiledFxGraph fhmizmm6dot ##", "elementwise and rest"),
    ],
)
def test_kernels_are_told_apart(name, kind):
    assert profile_step.kind_of(name) == kind


def test_operations_of_a_small_shape():
    """One layer of width 8, two heads, one for keys and values, by hand: FLOPs and bytes forward, times three with backward."""
    tiny_shape = "NUM_LAYERS=1 MODEL_DIM=8 NUM_HEADS=2 NUM_KV_HEADS=1 MLP_MULT=2 VOCAB_SIZE=16 TRAIN_SEQ_LEN=8 TRAIN_BATCH_TOKENS=16"
    work = profile_step.operations(train_gpt.load_settings(tiny_shape.split(), {}), 2)
    flops, traffic = ({kind: sum(row[i] for row in work if row[0] == kind) for kind, _, _ in work} for i in (1, 2))
    weights = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 2 * 8 * 16 + 8 * 16  # q, k and v, out, up and down, the head
    assert flops["matrix products"] == 3 * 2 * 16 * weights
    assert traffic["matrix products"] == 3 * 2 * (16 * (16 + 12 + 12 + 16 + 24 + 24 + 24) + weights)
    assert flops["attention"] == 3.5 * 2 * 16 * 4 * (8 + 8)  # a query sees half of 8 keys on average; scores, then their use; 8 wide
    assert traffic["attention"] == 3 * 2 * 16 * 2 * (8 + 4)
    block = 3 * 8 + 2 * (8 + 4) + 3 * 8 + 2 * 16  # mix and norm, norm of queries and keys, residual and norm, the MLP's activation
    assert traffic["elementwise and rest"] == 3 * 2 * 16 * block + 2 * 2 * 16 * 16 and not flops["elementwise and rest"]


def test_options_of_the_compiler_are_set(monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "combo_kernels", False)
    profile_step.set_compiler_options(["inductor.combo_kernels=True"])
    assert torch._inductor.config.combo_kernels is True


@pytest.mark.parametrize("option", ["inductor.nonsense=1", "inductor.combo_kernels=maybe", "inductor.=1", "inductor.combo_kernels"])
def test_what_is_no_option_is_refused(tiny, monkeypatch, capsys, option):
    status, out, err = run(monkeypatch, capsys, *tiny.settings(), option)
    assert status == 2 and option in err and "inductor.combo_kernels=True" in err

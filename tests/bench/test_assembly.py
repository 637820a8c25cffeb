"""Reading machine code: branches, loops, classes, and which loop a row spends its time in."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossgen.bench.assembly import parse
from lossgen.bench.classes import CLASSES, access_of, class_of, is_exp2
from lossgen.bench.counts import MACHINES, Launch, counts_of, pressure

TEXTS = Path(__file__).parent / "disassembly"
#: A thread has 4 classes of a tile, in bfloat16.
SMALL = Launch(classes=4096, block=128, threads=32, itemsize=2, streams=1, gradients=1)


def sass(text):
    """Disassembly of lines: a label, or an instruction."""
    lines = []
    for line in text.strip().splitlines():
        line = line.strip()
        lines.append(line if line.endswith(":") else f"    /*0000*/    {line} ;")
    return "\n".join(lines)


def counted(text, launch=SMALL):
    return counts_of(parse(sass(text)), launch)


def roles(record):
    return [(loop["role"], loop["kind"], loop["instructions"]) for loop in record["loops"]]


# ------------------------------------------------------------------------------- recorded texts
def test_a_recorded_nvidia_kernel():
    listing = parse((TEXTS / "sm90.txt").read_text(encoding="utf-8"))
    assert len(listing.instructions) > len(listing.reached)  # the padding behind the end
    record = counts_of(listing, SMALL)
    assert roles(record) == [("main", "sweep", 67), ("edge", "sweep", 91), ("fill", "", 27)]
    # The assembler unrolled them: 67 instructions are of four tiles, 16 classes.
    assert [loop["tiles"] for loop in record["loops"]] == [4, 4, 4]
    assert record["per_logit"]["instructions"] == pytest.approx(67 / 16, abs=1e-3)
    assert record["per_logit"]["ex2"] == record["per_logit"]["special"] == 1
    assert record["widths"] == {"loads": 64, "stores": 0}
    assert (record["bytes_read"], record["bytes_written"]) == (2, 0)
    assert set(record["per_logit"]) <= {*CLASSES, "instructions", "ex2"}
    assert "other" not in record["per_logit"]


def test_a_recorded_amd_kernel():
    # There a mask is no predicate: the offset of a masked load is selected.
    text = (TEXTS / "gfx942.txt").read_text(encoding="utf-8")
    launch = Launch(4096, 128, 64, itemsize=2, streams=1, gradients=1)
    record = counts_of(parse(text), launch)
    assert roles(record) == [("main", "sweep", 15), ("edge", "sweep", 20), ("fill", "", 12)]
    assert [loop["tiles"] for loop in record["loops"]] == [1, 1, 1]
    assert record["per_logit"]["ex2"] == 1
    assert record["widths"]["loads"] == 32


def test_a_mask_on_amd_may_be_the_exec_register():
    lines = """
    s_and_saveexec_b64 s[0:1], vcc
    global_load_dword v1, v0, s[2:3]
    s_or_b64 exec, exec, s[0:1]
    global_load_dword v2, v0, s[2:3]
    buffer_inv sc1
    s_endpgm
    """
    text = "\t.amdgcn_target x\n" + "\n".join(f"\t{s.strip()}" for s in lines.strip().splitlines())
    loads = [i for i in parse(text).instructions if i.name.startswith("global_load")]
    assert [load.predicated for load in loads] == [True, False]


# ------------------------------------------------------------------------------- loops
def test_a_cold_block_behind_the_end_is_no_loop():
    # It jumps back, but to a place that is also reached without it.
    record = counted(
        """
        @P0 BRA `(.L_x_2)
        .L_x_1:
        FADD R1, R1, R2
        EXIT
        .L_x_2:
        FMUL R1, R1, R2
        BRA `(.L_x_1)
        """
    )
    assert record["loops"] == []
    assert record["whole"] == 5


def test_blocks_of_parted_threads_do_not_count():
    record = counted(
        """
        .L_x_1:
        LDG.E.64 R2, desc[UR4][R4.64]
        BRA.DIV UR4, `(.L_x_2)
        @P0 BRA `(.L_x_1)
        EXIT
        .L_x_2:
        SHFL.BFLY PT, R1, R2, 0x1, 0x1f
        BRA `(.L_x_1)
        """
    )
    assert roles(record) == [("main", "sweep", 3)]
    assert record["whole"] == 4


def test_two_branches_back_are_one_loop_and_uniform_ones_may_fall_through():
    record = counted(
        """
        .L_x_1:
        LDG.E.64 R2, desc[UR4][R4.64]
        @P0 BRA `(.L_x_1)
        FADD R1, R1, R2
        BRA.U UP0, `(.L_x_1)
        EXIT
        """
    )
    assert roles(record) == [("main", "sweep", 2)]
    assert [loop["branched"] for loop in record["loops"]] == [2]
    assert record["whole"] == 5


def test_what_is_done_for_the_tile_of_the_target_does_not_count():
    # Nor does the longer of two ways, of which a tile takes one.
    record = counted(
        """
        .L_x_1:
        LDG.E.64 R2, desc[UR4][R4.64]
        @!P1 BRA `(.L_x_2)
        ISETP.NE.AND P2, PT, R1, R2, PT
        ISETP.NE.AND P3, PT, R1, R3, PT
        .L_x_2:
        @P2 BRA `(.L_x_3)
        FADD R1, R1, R2
        FADD R1, R1, R3
        BRA `(.L_x_4)
        .L_x_3:
        FMUL R1, R1, R2
        .L_x_4:
        @P0 BRA `(.L_x_1)
        EXIT
        """
    )
    assert roles(record) == [("main", "sweep", 5)]
    assert [loop["branched"] for loop in record["loops"]] == [5]
    assert record["per_logit"]["float"] == 1 / 4
    assert record["whole"] == 11


def test_only_the_innermost_loop_counts():
    record = counted(
        """
        .L_x_1:
        MOV R1, RZ
        .L_x_2:
        LDG.E.64 R2, desc[UR4][R4.64]
        @P0 BRA `(.L_x_2)
        @P1 BRA `(.L_x_1)
        EXIT
        """
    )
    assert roles(record) == [("main", "sweep", 2)]


def test_a_branch_to_nowhere_is_an_error():
    with pytest.raises(ValueError, match="no label"):
        parse(sass("BRA `(.L_x_9)"))
    with pytest.raises(ValueError, match="no instruction"):
        parse("")


# ------------------------------------------------------------------------------- the main loop
UNMASKED = """
    .L_x_1:
    LDG.E.64 R2, desc[UR4][R4.64]
    FADD R1, R1, R2
    @P0 BRA `(.L_x_1)
"""
MASKED = """
    .L_x_2:
    @P1 LDG.E.64 R2, desc[UR4][R4.64]
    @P0 BRA `(.L_x_2)
"""
BEHIND_A_BRANCH = """
    .L_x_3:
    @P1 BRA `(.L_x_4)
    LDG.E.64 R2, desc[UR4][R4.64]
    .L_x_4:
    @P0 BRA `(.L_x_3)
"""
NARROW = """
    .L_x_5:
    LDG.E.U16 R2, desc[UR4][R4.64]
    LDG.E.U16 R2, desc[UR4][R4.64+0x2]
    LDG.E.U16 R2, desc[UR4][R4.64+0x4]
    LDG.E.U16 R2, desc[UR4][R4.64+0x6]
    @P0 BRA `(.L_x_5)
"""
GRADIENT = """
    .L_x_6:
    @P1 LDG.E.64 R2, desc[UR4][R4.64]
    @P1 STG.E.64 desc[UR4][R4.64], R2
    @P0 BRA `(.L_x_6)
"""
OF_THE_ROW = """
    .L_x_7:
    LDG.E R2, desc[UR4][R4.64]
    @P0 BRA `(.L_x_7)
"""


def test_masked_and_narrow_loops_are_edges_where_there_is_a_better_one():
    text = UNMASKED + MASKED + BEHIND_A_BRANCH + NARROW + OF_THE_ROW + "EXIT"
    assert roles(counted(text)) == [
        ("main", "sweep", 3),
        ("edge", "sweep", 2),
        ("edge", "sweep", 3),
        ("edge", "sweep", 5),
        ("other", "", 2),
    ]


def test_masked_loops_are_main_where_there_is_no_other():
    # Sweeps and gradients are looked at apart: here no gradient is unmasked.
    record = counted(UNMASKED + GRADIENT + "EXIT")
    assert roles(record) == [("main", "sweep", 3), ("main", "gradient", 3)]
    assert record["per_logit"]["instructions"] == 6 / 4
    assert (record["bytes_read"], record["bytes_written"]) == (4, 2)
    assert roles(counted(MASKED + BEHIND_A_BRANCH + "EXIT")) == [
        ("main", "sweep", 2),
        ("main", "sweep", 3),
    ]


def test_without_a_loop_the_whole_program_counts_lanes_that_idle_too():
    text = "LDG.E.64 R2, desc[UR4][R4.64]\nMUFU.EX2 R2, R2\nSTG.E.64 desc[UR4][R4.64], R2\nEXIT"
    one = Launch(classes=100, block=128, threads=32, itemsize=2, streams=1, gradients=1)
    record = counted(text, one)
    assert record["loops"] == []
    assert record["per_logit"]["instructions"] == pytest.approx(4 * 32 / 100)
    assert record["per_logit"]["ex2"] == pytest.approx(32 / 100)
    # Five programs of one tile each hold a row of 600.
    five = Launch(classes=600, block=128, threads=32, itemsize=2, streams=1, gradients=1)
    assert counted(text, five)["per_logit"]["instructions"] == pytest.approx(4 * 5 * 32 / 600, 1e-3)


@pytest.mark.parametrize(
    ("step", "tiles"),
    [
        ("UIADD3 UR4, UR4, 0x80, URZ", 1),
        ("UIADD3 UR4, UR4, 0x100, URZ", 2),
        ("VIADD R7, R7.reuse, 0x100", 2),
        # The pointer goes two bytes for a class, the counter is the shorter one.
        ("IADD3 R4, P1, R4, 0x100, RZ\nUIADD3 UR4, UR4, 0x80, URZ", 1),
        ("IADD3 R4, P1, R4, 0x200, RZ\nUIADD3 UR4, UR4, 0x100, URZ", 2),
        ("UIADD3 UR5, UR4, 0x80, URZ", 2),  # another register: no step; by the bytes
        ("NOP", 2),
    ],
)
def test_how_often_a_loop_is_unrolled(step, tiles):
    load = "LDG.E.64 R2, desc[UR4][R4.64]\n"
    record = counted(f".L_x_1:\n{load}{load}{step}\n@P0 BRA `(.L_x_1)\nEXIT")
    assert [loop["tiles"] for loop in record["loops"]] == [tiles]


# ------------------------------------------------------------------------------- classes
@pytest.mark.parametrize(
    ("name", "kind", "access"),
    [
        ("LDG.E.128", "load", ("load", 16)),
        ("LDG.E.EF.U16.CONSTANT", "load", ("load", 2)),
        ("LDG.E", "load", ("load", 4)),
        ("LDGSTS.E.BYPASS.128", "load", ("load", 16)),
        ("STG.E.U8", "store", ("store", 1)),
        ("LDL.64", "spill", ("", 0)),
        ("MUFU.RCP", "special", ("", 0)),
        ("IMAD.MOV.U32", "move", ("", 0)),
        ("IMAD.WIDE", "integer", ("", 0)),
        ("FMNMX3", "float", ("", 0)),
        ("UIADD3.X", "uniform", ("", 0)),
        ("UTCHMMA", "tensor", ("", 0)),
        ("NEVERSEEN", "other", ("", 0)),
        ("global_load_dwordx4", "load", ("load", 16)),
        ("buffer_load_ushort", "load", ("load", 2)),
        ("buffer_store_short_d16_hi", "store", ("store", 2)),
        ("s_load_dwordx4", "uniform", ("", 0)),
        ("v_exp_f32_e32", "special", ("", 0)),
        ("v_add_f32_dpp", "shuffle", ("", 0)),
        ("v_cndmask_b32_e64", "compare", ("", 0)),
        ("v_pk_fma_f32", "float", ("", 0)),
        ("v_lshl_add_u32", "integer", ("", 0)),
        ("s_waitcnt", "control", ("", 0)),
    ],
)
def test_what_an_instruction_is(name, kind, access):
    assert class_of(name) == kind
    assert access_of(name) == access


def test_exponentials():
    assert is_exp2("MUFU.EX2")
    assert is_exp2("v_exp_f32_e64")
    assert not is_exp2("MUFU.RCP")


def test_the_model():
    # 14.1 lane-instructions of any kind, and an eighth of that of special ones, per two bytes.
    record = {"bytes_read": 2, "bytes_written": 0, "per_logit": {"instructions": 25.75}}
    record["per_logit"]["special"] = 1.25
    assert MACHINES["sm_90"].per_two_bytes(128) == pytest.approx(14.1, abs=0.05)
    assert pressure(record, MACHINES["sm_90"]) == {"issue": 1.82, "special": 0.707}
    assert pressure({**record, "bytes_read": 0}, MACHINES["sm_90"]) == {}

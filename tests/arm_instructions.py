"""What single Arm instructions count as, worked out by hand from the Arm Architecture Reference Manual."""

from __future__ import annotations

from dataclasses import dataclass

LOOPS = 7
_CLASSES = {
    "f": "float_multiply_adds",
    "i": "integer_multiply_adds",
    "d": "dot_products",
    "m": "matrix_products",
    "l": "bytes_loaded",
    "s": "bytes_stored",
}

# What one execution of each instruction counts as, by the letters above. x10 points to 256 bytes.
_TABLE = """
fmla v0.4s, v1.4s, v2.4s               f4
fmla v0.2s, v1.2s, v2.2s               f2
fmla v0.2d, v1.2d, v2.2d               f2
fmls v0.4s, v1.4s, v2.4s               f4
fmls v0.2d, v1.2d, v2.2d               f2
fmla v0.8h, v1.8h, v2.8h               f8
fmla v0.4h, v1.4h, v2.4h               f4
fmls v0.8h, v1.8h, v2.8h               f8
fmla v0.4s, v1.4s, v2.s[3]             f4
fmla v0.2s, v1.2s, v2.s[1]             f2
fmla v0.2d, v1.2d, v2.d[1]             f2
fmls v0.4s, v1.4s, v20.s[2]            f4
fmla v0.8h, v1.8h, v2.h[7]             f8
fmla v0.4h, v1.4h, v2.h[0]             f4
fmls v0.8h, v1.8h, v2.h[5]             f8
fmlal v0.4s, v1.4h, v2.4h              f4
fmlal v0.2s, v1.2h, v2.2h              f2
fmlal2 v0.4s, v1.4h, v2.4h             f4
fmlsl v0.4s, v1.4h, v2.4h              f4
fmlsl2 v0.2s, v1.2h, v2.2h             f2
fmlal v0.4s, v1.4h, v2.h[7]            f4
fmlal2 v0.4s, v1.4h, v2.h[1]           f4
fmlsl v0.2s, v1.2h, v2.h[1]            f2
fmlsl2 v0.4s, v1.4h, v2.h[1]           f4
fcmla v0.4s, v1.4s, v2.4s, #90         f4
fcmla v0.8h, v1.8h, v2.8h, #270        f8
fcmla v0.4s, v1.4s, v2.s[1], #0        f4
fcmla v0.4s, v1.4s, v2.s[0], #180      f4
bfdot v0.4s, v1.8h, v2.8h              f8
bfdot v0.2s, v1.4h, v2.4h              f4
bfdot v0.4s, v1.8h, v2.2h[1]           f8
bfmlalb v0.4s, v1.8h, v2.8h            f4
bfmlalt v0.4s, v1.8h, v2.8h            f4
bfmlalb v0.4s, v1.8h, v2.h[1]          f4
bfmlalt v0.4s, v1.8h, v2.h[1]          f4
bfmmla v0.4s, v1.8h, v2.8h             f16
fmul v0.4s, v1.4s, v2.4s
fmul v0.4s, v1.4s, v2.s[1]
fmul v0.8h, v1.8h, v2.8h
fmulx v0.4s, v1.4s, v2.4s
fadd v0.4s, v1.4s, v2.4s
fcmeq v0.4s, v1.4s, v2.4s
fmax v0.8h, v1.8h, v2.8h
frecps v0.4s, v1.4s, v2.4s
fmadd s0, s1, s2, s3
fmla s0, s1, v2.s[1]
dup v0.4s, v1.s[1]
movi v0.4s, #1
shl v0.4s, v1.4s, #3
zip1 v0.4s, v1.4s, v2.4s
ext v0.16b, v1.16b, v2.16b, #4
tbl v0.16b, {v1.16b}, v2.16b
mla v0.16b, v1.16b, v2.16b             i16
mla v0.8b, v1.8b, v2.8b                i8
mla v0.8h, v1.8h, v2.8h                i8
mla v0.4s, v1.4s, v2.4s                i4
mls v0.2s, v1.2s, v2.2s                i2
mls v0.4h, v1.4h, v2.4h                i4
mla v0.8h, v1.8h, v2.h[7]              i8
mla v0.2s, v1.2s, v2.s[1]              i2
mls v0.4s, v1.4s, v2.s[1]              i4
smlal v0.8h, v1.8b, v2.8b              i8
smlal2 v0.8h, v1.16b, v2.16b           i8
smlal v0.4s, v1.4h, v2.4h              i4
smlal2 v0.2d, v1.4s, v2.4s             i2
umlal v0.8h, v1.8b, v2.8b              i8
umlal2 v0.4s, v1.8h, v2.8h             i4
smlsl v0.4s, v1.4h, v2.4h              i4
umlsl2 v0.8h, v1.16b, v2.16b           i8
smull v0.8h, v1.8b, v2.8b              i8
smull2 v0.8h, v1.16b, v2.16b           i8
umull v0.4s, v1.4h, v2.4h              i4
smlal v0.4s, v1.4h, v2.h[7]            i4
smlal2 v0.4s, v1.8h, v2.h[2]           i4
umlal v0.2d, v1.2s, v2.s[1]            i2
smlsl v0.4s, v1.4h, v2.h[1]            i4
umlsl2 v0.4s, v1.8h, v2.h[1]           i4
smull v0.4s, v1.4h, v2.h[1]            i4
umull2 v0.4s, v1.8h, v2.h[1]           i4
sqdmlal v0.4s, v1.4h, v2.4h            i4
sqdmlsl2 v0.4s, v1.8h, v2.8h           i4
sqdmlal v0.4s, v1.4h, v2.h[3]          i4
sqdmlsl v0.2d, v1.2s, v2.s[3]          i2
sqrdmlah v0.8h, v1.8h, v2.8h           i8
sqrdmlsh v0.4s, v1.4s, v2.4s           i4
sqrdmlah v0.4h, v1.4h, v2.h[3]         i4
sqrdmlsh v0.4s, v1.4s, v2.s[3]         i4
mul v0.4s, v1.4s, v2.4s
mul v0.4s, v1.4s, v2.s[1]
sqrdmulh v0.8h, v1.8h, v2.8h
sqdmull v0.4s, v1.4h, v2.4h
pmull v0.8h, v1.8b, v2.8b
saddl v0.8h, v1.8b, v2.8b
sadalp v0.4s, v1.8h
saba v0.4s, v1.4s, v2.4s
addp v0.4s, v1.4s, v2.4s
madd x0, x1, x2, x3
smaddl x0, w1, w2, x3
sdot v0.4s, v1.16b, v2.16b             i16 d1
sdot v0.2s, v1.8b, v2.8b               i8 d1
udot v0.4s, v1.16b, v2.16b             i16 d1
sdot v0.4s, v1.16b, v2.4b[3]           i16 d1
udot v0.2s, v1.8b, v2.4b[1]            i8 d1
usdot v0.4s, v1.16b, v2.16b            i16 d1
usdot v0.4s, v1.16b, v2.4b[2]          i16 d1
sudot v0.2s, v1.8b, v2.4b[2]           i8 d1
smmla v0.4s, v1.16b, v2.16b            i32 m1
ummla v0.4s, v1.16b, v2.16b            i32 m1
usmmla v0.4s, v1.16b, v2.16b           i32 m1
ldr x0, [x10]                          l8
ldr w0, [x10, #4]                      l4
ldr x0, [x10, x13]                     l8
ldr x0, [x10], #8                      l8
ldr x0, [x10, #8]!                     l8
ldur x0, [x10, #3]                     l8
ldrb w0, [x10]                         l1
ldrh w0, [x10]                         l2
ldrsb x0, [x10]                        l1
ldrsb w0, [x10]                        l1
ldrsh w0, [x10]                        l2
ldrsw x0, [x10]                        l4
ldr b0, [x10]                          l1
ldr h0, [x10]                          l2
ldr s0, [x10]                          l4
ldr d0, [x10]                          l8
ldr q0, [x10]                          l16
ldr q0, [x10], #16                     l16
ldr q0, [x10, x13, lsl #4]             l16
ldur q0, [x10, #1]                     l16
ldr x0, literal                        l8
ldr w0, literal                        l4
ldrsw x0, literal                      l4
ldr s0, literal                        l4
ldr d0, literal                        l8
ldr q0, literal                        l16
str x0, [x10]                          s8
str w0, [x10, #4]                      s4
strb w0, [x10]                         s1
strh w0, [x10, #2]!                    s2
stur x0, [x10, #3]                     s8
str s0, [x10]                          s4
str d0, [x10], #8                      s8
str q0, [x10]                          s16
str q0, [x10, x13]                     s16
str h0, [x10]                          s2
ldp x0, x1, [x10]                      l16
ldp w0, w1, [x10]                      l8
ldpsw x0, x1, [x10]                    l8
ldp s0, s1, [x10]                      l8
ldp d0, d1, [x10], #16                 l16
ldp q0, q1, [x10]                      l32
ldnp q0, q1, [x10]                     l32
stp x0, x1, [x10, #16]!                s16
stp w0, w1, [x10]                      s8
stp s0, s1, [x10]                      s8
stp q0, q1, [x10]                      s32
stnp d0, d1, [x10]                     s16
ld1 {v0.16b}, [x10]                    l16
ld1 {v0.8b}, [x10], #8                 l8
ld1 {v0.4s, v1.4s}, [x10], #32         l32
ld1 {v0.4h, v1.4h, v2.4h}, [x10]       l24
ld1 {v0.2d, v1.2d, v2.2d, v3.2d}, [x10]    l64
ld2 {v0.8h, v1.8h}, [x10]              l32
ld3 {v0.8b, v1.8b, v2.8b}, [x10]       l24
ld4 {v0.4s, v1.4s, v2.4s, v3.4s}, [x10], x13   l64
st1 {v0.16b}, [x10]                    s16
st1 {v0.16b, v1.16b, v2.16b, v3.16b}, [x10], #64   s64
st2 {v0.4s, v1.4s}, [x10]              s32
st4 {v0.8b, v1.8b, v2.8b, v3.8b}, [x10]    s32
ld1 {v0.b}[5], [x10]                   l1
ld1 {v0.h}[5], [x10]                   l2
ld1 {v0.s}[3], [x10], #4               l4
ld1 {v0.d}[1], [x10]                   l8
ld2 {v0.s, v1.s}[1], [x10]             l8
ld3 {v0.h, v1.h, v2.h}[1], [x10]       l6
ld4 {v0.d, v1.d, v2.d, v3.d}[0], [x10]     l32
ld1r {v0.16b}, [x10]                   l1
ld1r {v0.4s}, [x10], #4                l4
ld1r {v0.2d}, [x10]                    l8
ld2r {v0.4s, v1.4s}, [x10]             l8
ld4r {v0.8h, v1.8h, v2.8h, v3.8h}, [x10]   l8
st1 {v0.s}[2], [x10]                   s4
st1 {v0.b}[2], [x10]                   s1
st3 {v0.h, v1.h, v2.h}[2], [x10]       s6
ldxr x0, [x10]                         l8
ldxr w0, [x10]                         l4
ldaxrb w0, [x10]                       l1
ldxp x0, x1, [x10]                     l16
ldaxp w0, w1, [x10]                    l8
stxr w2, x0, [x10]                     s8
stlxrh w2, w0, [x10]                   s2
stxp w2, x0, x1, [x10]                 s16
ldar x0, [x10]                         l8
ldarb w0, [x10]                        l1
stlr w0, [x10]                         s4
ldapr x0, [x10]                        l8
ldapur w0, [x10, #4]                   l4
ldapursw x0, [x10, #4]                 l4
stlur x0, [x10, #8]                    s8
cas x0, x1, [x10]                      l8 s8
casab w0, w1, [x10]                    l1 s1
casp x0, x1, x2, x3, [x10]             l16 s16
casp w0, w1, w2, w3, [x10]             l8 s8
ldadd x0, x1, [x10]                    l8 s8
ldaddalh w0, w1, [x10]                 l2 s2
swp w0, w1, [x10]                      l4 s4
swpb w0, w1, [x10]                     l1 s1
prfm pldl1keep, [x10]
prfm pldl1keep, [x10, x13]
prfm pldl1keep, literal
prfum pldl1keep, [x10, #1]
clrex
dmb ish
nop
"""


@dataclass(frozen=True)
class Case:
    """An instruction, and what one execution of it counts as; a kind that is not there counts nothing."""

    instruction: str
    counts: dict[str, int]


def cases() -> tuple[Case, ...]:
    """All of the table."""
    return tuple(_case(line) for line in _TABLE.strip().splitlines())


def program() -> str:
    """Assembly of a program that runs each case `LOOPS` times between the marks 2i and 2i + 1, and exits."""
    return "\n".join((_HEAD, *(_loop(index, case) for index, case in enumerate(cases())), _TAIL))


OVERHEAD = 6
"""Instructions between two marks besides the loop's: one that sets the counter, five that make the second mark."""
IN_LOOP = 4
"""Instructions of one turn of the loop."""

_HEAD = """
    .arch armv8.6-a+fp16+fp16fml+bf16+i8mm+dotprod+rcpc+lse
    .macro mark label
    mov w8, #141
    mov w0, #0
    movz w1, #0x51AE, lsl #16
    movk w1, #\\label
    svc #0
    .endm
    .global _start
_start:
    adrp x9, memory
    add x9, x9, :lo12:memory
    mov x13, #2
"""
_TAIL = """
    mov w8, #94
    mov w0, #0
    svc #0
    .balign 16
literal:
    .quad 0, 0
    .bss
    .balign 64
memory:
    .space 4096
"""


def _case(line: str) -> Case:
    instruction, *words = line.split("  ", 1)
    counts = {_CLASSES[word[0]]: int(word[1:]) for word in "".join(words).split()}
    return Case(instruction.strip(), counts)


def _loop(index: int, case: Case) -> str:
    return f"""
    mark {2 * index}
    mov w19, #{LOOPS}
1:  mov x10, x9
    {case.instruction}
    subs w19, w19, #1
    b.ne 1b
    mark {2 * index + 1}
"""

"""The Walsh-Hadamard transform of rows on a processor: straight-line vector code, compiled by numba.

numba's own vectoriser does not keep sixteen vectors in registers through several stages, so the codelets are written
in LLVM's instructions. One codelet loads up to 16 vectors of 16 numbers, does up to eight stages in registers (four
across vectors, four across the lanes of a vector) and stores them: a row of 4,096 takes two passes over 16 kB that lie
in the first cache, and memory is read once and written once. LLVM splits the vectors where a processor has narrower
ones.

Sixteen-bit numbers are widened after the load and rounded to nearest even before the store. They come as integer
arrays, so that the type says which format they are in: uint16 is bfloat16, int16 is float16.
"""

import platform
from typing import Any, no_type_check

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
BLOCK = 256


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)
_BFLOATS = ir.VectorType(_BFloat(), LANES)
_UNDEFINED = ir.Constant(_FLOATS, ir.Undefined)
_FEATURES = binding.get_host_cpu_features()
# one instruction there; elsewhere rounding is done on the bits. numba's cache is kept apart by processor.
_NATIVE_BFLOAT16 = bool(_FEATURES.get("avx512bf16"))
NATIVE_FLOAT16 = bool(_FEATURES.get("f16c")) or platform.machine() in {"aarch64", "arm64"}
# one multiply-add where the processor has it: a product with +1 or -1 is exact either way.
_FUSED = ("contract",)


def _words(value: int) -> ir.Constant:
    return ir.Constant(_WORDS, [value] * LANES)


def _load(builder: Any, pointer: Any, dtype: Any) -> Any:
    """Return 16 numbers from `pointer` as float32."""
    stored = _FLOATS if dtype == types.float32 else _SHORTS
    size = 4 if dtype == types.float32 else 2
    raw = builder.load(builder.bitcast(pointer, stored.as_pointer()), align=size)
    if dtype == types.float32:
        return raw
    if dtype == types.int16:
        return builder.fpext(builder.bitcast(raw, _HALVES), _FLOATS)
    return builder.bitcast(builder.shl(builder.zext(raw, _WORDS), _words(16)), _FLOATS)


def _store(builder: Any, value: Any, pointer: Any, dtype: Any) -> None:
    """Write 16 numbers to `pointer`, rounded to nearest even if they are stored in 16 bits."""
    if dtype == types.float32:
        builder.store(value, builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)
        return
    if dtype == types.int16:
        rounded = builder.bitcast(builder.fptrunc(value, _HALVES), _SHORTS)
    elif _NATIVE_BFLOAT16:
        rounded = builder.bitcast(builder.fptrunc(value, _BFLOATS), _SHORTS)
    else:
        bits = builder.bitcast(value, _WORDS)
        odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
        near = builder.lshr(builder.add(bits, builder.add(odd, _words(0x7FFF))), _words(16))
        # adding could carry the bits of a NaN into the sign.
        invalid = builder.fcmp_unordered("uno", value, value)
        rounded = builder.trunc(builder.select(invalid, _words(0x7FC0), near), _SHORTS)
    builder.store(rounded, builder.bitcast(pointer, _SHORTS.as_pointer()), align=2)


def _lane_stages(builder: Any, vector: Any, length: int) -> Any:
    """Transform each group of `length` lanes of one vector."""
    stride = 1
    while stride < length:
        order = ir.Constant(_WORDS, [lane ^ stride for lane in range(LANES)])
        signs = ir.Constant(_FLOATS, [-1.0 if lane & stride else 1.0 for lane in range(LANES)])
        partner = builder.shuffle_vector(vector, _UNDEFINED, order)
        vector = builder.fadd(builder.fmul(vector, signs, flags=_FUSED), partner, flags=_FUSED)
        stride *= 2
    return vector


def _vector_stages(builder: Any, vectors: list[Any], factor: Any) -> None:
    """Transform across the vectors, in place, and multiply by `factor`."""
    if len(vectors) == 1:
        vectors[0] = builder.fmul(vectors[0], factor)
    stride = 1
    while stride < len(vectors):
        for low in range(len(vectors)):
            if not low & stride:
                a, b = vectors[low], vectors[low + stride]
                if 2 * stride == len(vectors):
                    # one product for two numbers: the other is part of the multiply-add.
                    a, b = builder.fmul(a, factor, flags=_FUSED), builder.fmul(b, factor)
                vectors[low] = builder.fadd(a, b, flags=_FUSED)
                vectors[low + stride] = builder.fsub(a, b, flags=_FUSED)
        stride *= 2


@no_type_check
@intrinsic(prefer_literal=True)
def codelet(context, source, source_start, source_step, target, target_start, target_step, scale, num_vectors, lanes):
    """Transform `num_vectors` vectors, `step` numbers apart from `start` on: across them and in groups of `lanes`.

    `num_vectors` and `lanes` are literals and powers of two up to 16. The result is multiplied by `scale`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_start, source_step, target, target_start, target_step, scale, _, _ = arguments
        source_type, target_type = signature.args[0], signature.args[3]
        source_data = context.make_array(source_type)(context, builder, source).data
        target_data = context.make_array(target_type)(context, builder, target).data
        factor = builder.insert_element(_UNDEFINED, scale, ir.Constant(ir.IntType(32), 0))
        factor = builder.shuffle_vector(factor, _UNDEFINED, _words(0))
        vectors = []
        offset = source_start
        for _ in range(num_vectors.literal_value):
            loaded = _load(builder, builder.gep(source_data, [offset]), source_type.dtype)
            vectors.append(_lane_stages(builder, loaded, lanes.literal_value))
            offset = builder.add(offset, source_step)
        _vector_stages(builder, vectors, factor)
        offset = target_start
        for vector in vectors:
            _store(builder, vector, builder.gep(target_data, [offset]), target_type.dtype)
            offset = builder.add(offset, target_step)
        return context.get_dummy_value()

    index = types.intp
    return types.void(source, index, index, target, index, index, types.float32, num_vectors, lanes), generate


@no_type_check
@intrinsic(prefer_literal=True)
def prefetch(context, array, start, write):
    """Ask for the cache line of `array[start]`, to write it if the literal `write` is 1. It may lie outside."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        word, address = ir.IntType(32), ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [address, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), address)
        builder.call(function, [pointer, *(ir.Constant(word, value) for value in (write.literal_value, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp, write), generate


@no_type_check
@njit(nogil=True, cache=True)
def _short_row(source, target, start, length, scale):
    """Transform a row of 16 to 256 in one codelet."""
    if length == 16:
        codelet(source, start, 16, target, start, 16, scale, 1, 16)
    elif length == 32:
        codelet(source, start, 16, target, start, 16, scale, 2, 16)
    elif length == 64:
        codelet(source, start, 16, target, start, 16, scale, 4, 16)
    elif length == 128:
        codelet(source, start, 16, target, start, 16, scale, 8, 16)
    else:
        codelet(source, start, 16, target, start, 16, scale, 16, 16)


@no_type_check
@njit(nogil=True, cache=True)
def _first_pass(source, start, scratch, aligned, target, length, radix):
    """Read a row, do the stages of its highest bits, and leave it in the scratch."""
    step = length // radix
    one = np.float32(1)
    per_line = 64 // target.itemsize
    for j in range(0, step, LANES):
        for line in range(j * radix, (j + LANES) * radix, per_line):
            prefetch(target, start + line, 1)
        if radix == 2:
            codelet(source, start + j, step, scratch, aligned + j, step, one, 2, 1)
        elif radix == 4:
            codelet(source, start + j, step, scratch, aligned + j, step, one, 4, 1)
        elif radix == 8:
            codelet(source, start + j, step, scratch, aligned + j, step, one, 8, 1)
        else:
            codelet(source, start + j, step, scratch, aligned + j, step, one, 16, 1)


@no_type_check
@njit(nogil=True, cache=True)
def transform_rows(source, target, first, last, length, scale):
    """Write the transform of rows `first` to `last` of a flat array to `target`, multiplied by `scale`.

    `length` is a power of two of at least 16. Source and target have the same type and may be the same array.
    """
    if length <= BLOCK:
        for row in range(first, last):
            _short_row(source, target, row * length, length, scale)
        return
    one = np.float32(1)
    scratch = np.empty(length + LANES, np.float32)
    # a vector that straddles two cache lines costs two accesses.
    aligned = ((64 - scratch.ctypes.data % 64) % 64) // 4
    per_line = 64 // source.itemsize
    radix = length // BLOCK
    while radix > 16:
        radix //= 16
    for row in range(first, last):
        start = row * length
        _first_pass(source, start, scratch, aligned, target, length, radix)
        part = length // radix
        while part > BLOCK:
            step = part // 16
            for base in range(aligned, aligned + length, part):
                for j in range(base, base + step, LANES):
                    codelet(scratch, j, step, scratch, j, step, one, 16, 1)
            part = step
        for base in range(0, length, BLOCK):
            for line in range(base, base + BLOCK, per_line):
                prefetch(source, start + length + line, 0)
            codelet(scratch, aligned + base, 16, target, start + base, 16, scale, 16, 16)

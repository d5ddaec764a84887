/* How activations become int8 as they come, for the dot products of KleidiAI's kernels.
 *
 * ExecuTorch's wheel has KleidiAI's products of int8 matrices, and leaves this step to the copy of KleidiAI in torch.
 * Each row is quantised by itself, with the zero point that loses least at either end. `mr` rows make a block: their
 * values, a piece of `kr / sr` from each row in turn, rows filled up to a multiple of 32; then each row's zero point,
 * negated, as int32; then each row's scale as float.
 */

#include <arm_neon.h>
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { WIDTH_MULTIPLE = 32, AT_ONCE = 8, LEAST = INT8_MIN, MOST = INT8_MAX };

struct range {
    float scale; /* integers a unit */
    int32_t zero_point;
};

static struct range find_range(const float *row, size_t width) {
    float32x4_t least4 = vdupq_n_f32(0.0f), most4 = vdupq_n_f32(0.0f); /* zero is always in it */
    size_t column = 0;
    for (; column + AT_ONCE <= width; column += AT_ONCE) {
        float32x4_t low = vld1q_f32(row + column), high = vld1q_f32(row + column + 4);
        least4 = vminq_f32(least4, vminq_f32(low, high));
        most4 = vmaxq_f32(most4, vmaxq_f32(low, high));
    }
    float least = vminvq_f32(least4), most = vmaxvq_f32(most4);
    for (; column < width; column++) {
        least = fminf(least, row[column]);
        most = fmaxf(most, row[column]);
    }
    float scale = least == most ? 1.0f : (MOST - LEAST) / (most - least);
    float below = LEAST - least * scale, above = MOST - most * scale;
    float exact = (LEAST + least * scale) + (MOST + most * scale) > 0.0f ? below : above;
    return (struct range){scale, (int32_t)rintf(fminf(fmaxf(exact, LEAST), MOST))};
}

static int8x8_t quantise8(const float *values, struct range range) {
    int16x8_t zero_point = vdupq_n_s16((int16_t)range.zero_point);
    int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values), range.scale));
    int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values + 4), range.scale));
    return vqmovn_s16(vqaddq_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high)), zero_point));
}

/* Writes a row's pieces, of 4 or 8 values, `step` bytes from one to the next. */
static void quantise_row(const float *row, size_t width, struct range range, size_t piece, size_t step, int8_t *out) {
    size_t filled = (width + WIDTH_MULTIPLE - 1) / WIDTH_MULTIPLE * WIDTH_MULTIPLE;
    for (size_t column = 0; column < filled; column += AT_ONCE) {
        int8_t values[AT_ONCE];
        if (column + AT_ONCE <= width) {
            vst1_s8(values, quantise8(row + column, range));
        } else {
            float last[AT_ONCE]; /* what lies beyond the row is multiplied by zeros */
            for (size_t each = 0; each < AT_ONCE; each++)
                last[each] = row[column + each < width ? column + each : width - 1];
            vst1_s8(values, quantise8(last, range));
        }
        for (size_t done = 0; done < AT_ONCE; done += piece, out += step)
            memcpy(out, values + done, piece);
    }
}

void kai_run_lhs_quant_pack_qai8dxp_f32(size_t rows, size_t width, size_t mr, size_t kr, size_t sr, size_t first,
                                        const float *lhs, size_t stride_bytes, void *packed) {
    size_t filled = (width + WIDTH_MULTIPLE - 1) / WIDTH_MULTIPLE * WIDTH_MULTIPLE, piece = kr / sr;
    int8_t *block = packed;
    for (size_t index = 0; index < rows; index++) {
        const float *row = (const float *)((const char *)lhs + index * stride_bytes);
        size_t place = (first + index) % mr;
        struct range range = find_range(row, width);
        float scale = 1.0f / range.scale;
        int32_t negated = -range.zero_point;
        quantise_row(row, width, range, piece, mr * piece, block + place * piece);
        memcpy(block + mr * filled + place * sizeof negated, &negated, sizeof negated);
        memcpy(block + mr * (filled + sizeof negated) + place * sizeof scale, &scale, sizeof scale);
        if (place + 1 == mr)
            block += mr * (filled + sizeof negated + sizeof scale);
    }
}

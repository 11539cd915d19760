/* Scoring for one instruction set; score.c defines NAMED, TARGET, LANES and ROWS and includes this file. */

typedef float NAMED(vector) __attribute__((vector_size(4 * LANES)));
typedef float NAMED(any_vector) __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t NAMED(bits) __attribute__((vector_size(4 * LANES)));

INLINE NAMED(vector) NAMED(load)(const float *from)
{
    return *(const NAMED(any_vector) *)from;
}

/* ReLU; NaN stays NaN. */
INLINE NAMED(vector) NAMED(rectified)(const NAMED(vector) x)
{
    return (NAMED(vector))((NAMED(bits))x & ~(x < 0));
}

/* Dot product: adds the products of x and y to eight sums, and those of the remainder to one. */
INLINE void NAMED(multiply)(const int width, const float *x, const float *y, eight *sums, float *sum)
{
    int k = 0;
    for (; k + 8 <= width; k += 8)
        *sums += *(const any_eight *)(x + k) * *(const any_eight *)(y + k);
    for (; k < width; k++)
        *sum += x[k] * y[k];
}

/* The first layer: ReLU of the sum of the user's and the post's part. */
INLINE void NAMED(first_layer)(const float *user, const float *post, float *x)
{
    int k = 0;
    for (; k + LANES <= FIRST; k += LANES)
        *(NAMED(vector) *)(x + k) = NAMED(rectified)(NAMED(load)(user + k) + NAMED(load)(post + k));
    for (; k < FIRST; k++)
        x[k] = user[k] + post[k] < 0 ? 0 : user[k] + post[k];
}

/* One or two vectors of a layer's units: x (ROWS, entering) to y (ROWS, leaving), rows WIDEST apart.
 *
 * If a layer's width is not a multiple of the vector length, the last lanes load the memory that follows; their
 * results are not used. */
INLINE void NAMED(units)(const int vectors, const int entering, const int leaving, const float *weight,
                         const float *bias, const float *x, float *y)
{
    NAMED(vector) sum[ROWS][2];
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[row][v] = NAMED(load)(bias + v * LANES);
#pragma GCC unroll 1
    for (int unit = 0; unit < entering; unit++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const NAMED(vector) w = NAMED(load)(weight + unit * leaving + v * LANES);
#pragma GCC unroll 16
            for (int row = 0; row < ROWS; row++)
                sum[row][v] += w * x[row * WIDEST + unit];
        }
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            *(NAMED(vector) *)(y + row * WIDEST + v * LANES) = NAMED(rectified)(sum[row][v]);
}

/* A whole layer; returns where the next one's weights begin. */
INLINE const float *NAMED(layer)(const int entering, const int leaving, const float *weight, const float *x,
                                 float *y)
{
    const float *bias = weight + entering * leaving;
    int at = 0;
    for (; at + LANES < leaving; at += 2 * LANES)
        NAMED(units)(2, entering, leaving, weight + at, bias + at, x, y + at);
    if (at < leaving)
        NAMED(units)(1, entering, leaving, weight + at, bias + at, x, y + at);
    return bias + leaving;
}

/* Prefetches the post vector of a later pair: posts lie anywhere in their table, and cache misses would take half
 * of the time. GCC removes a function with only prefetches as one without effect, unless it is inlined. */
INLINE void NAMED(prefetch)(const struct batch *batch, const uint64_t pair)
{
    if (pair >= batch->pairs)
        return;
    const char *post = (const char *)batch->posts + POST * (uint64_t)batch->post_index[pair];
    for (int at = 0; at < POST; at += LINE)
        __builtin_prefetch(post + at);
    __builtin_prefetch(post + POST - 1);
}

TARGET static int NAMED(score)(const struct batch *batch)
{
    float even[ROWS * WIDEST] ALIGNED, odd[ROWS * WIDEST] ALIGNED, logit[ROWS];
    eight sums[ROWS];
    for (uint64_t pair = 0; pair < AHEAD; pair++)
        NAMED(prefetch)(batch, pair);
    for (uint64_t start = 0; start < batch->pairs; start += ROWS) {
        for (int row = 0; row < ROWS; row++) {
            NAMED(prefetch)(batch, start + row + AHEAD);
            /* The last rows are padded with the last pair. */
            const uint64_t pair = start + row < batch->pairs ? start + row : batch->pairs - 1;
            const uint64_t segment = batch->segments[pair];
            if (segment >= batch->requests)
                return OUT_OF_BOUNDS;
            const uint64_t user_row = batch->user_index[segment], post_row = batch->post_index[pair];
            if (user_row >= batch->user_rows || post_row >= batch->post_rows)
                return OUT_OF_BOUNDS;
            const float *user = batch->users + user_row * (GMF + FIRST + 1);
            const float *post = batch->posts + post_row * (GMF + FIRST);
            logit[row] = user[GMF + FIRST];
            sums[row] = (eight){0};
            NAMED(multiply)(GMF, user, post, &sums[row], &logit[row]);
            NAMED(first_layer)(user + GMF, post + GMF, even + row * WIDEST);
        }
        const float *weight = batch->layers;
        float *x = even, *y = odd;
#define LAYER(entering, leaving)                                \
    {                                                           \
        weight = NAMED(layer)(entering, leaving, weight, x, y); \
        float *const last = y;                                  \
        y = x;                                                  \
        x = last;                                               \
    }
        LAYERS
#undef LAYER
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; row++)
            NAMED(multiply)(LAST, x + row * WIDEST, weight, &sums[row], &logit[row]);
#pragma GCC unroll 8
        for (int lane = 0; lane < 8; lane++)
#pragma GCC unroll 16
            for (int row = 0; row < ROWS; row++)
                logit[row] += sums[row][lane];
        for (int row = 0; row < ROWS && start + row < batch->pairs; row++)
            batch->logits[start + row] = logit[row];
    }
    return DONE;
}

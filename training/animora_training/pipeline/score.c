/* The logits of user-post pairs, as FoldedNeuCF.score defines them, for one network shape.
 *
 * `compilation.py` compiles it; `animora_artifact.compiled` loads it and says what it exports. Macros give the
 * shape:
 *
 *   GMF      width of the GMF branch, the bias included
 *   FIRST    width of the MLP's first layer
 *   WIDTHS   widths of all layers, the first one's included, with commas between
 *   LAYERS   LAYER(entering, leaving) for each layer above the first
 *   LAST     width of the last layer
 *   WIDEST   of all layers, rounded up to a whole number of the longest vectors
 *
 * It has no dependencies, so it loads on any machine of the same architecture, and it checks the CPU's features
 * before it uses AVX2 or AVX-512. */
#include <stdint.h>

enum { AVX2 = 1, AVX512 = 2 };
enum { DONE = 0, OUT_OF_BOUNDS = 1, NO_SUCH_LEVEL = 2 };

struct batch {
    const float *users;  /* (user_rows, GMF + FIRST + 1) */
    const float *layers; /* weight (entering, leaving) and bias of each layer, then the final weights */
    uint64_t user_rows;
    const int64_t *user_index; /* (requests), rows of users */
    uint64_t requests;
    const int64_t *segments; /* (pairs), positions in user_index */
    const float *posts;      /* (post_rows, GMF + FIRST) */
    uint64_t post_rows;
    const int64_t *post_index; /* (pairs), rows of posts */
    float *logits;             /* (pairs) */
    uint64_t pairs;
};

typedef float eight __attribute__((vector_size(32)));
typedef float any_eight __attribute__((vector_size(32), aligned(4)));

enum { AHEAD = 16, POST = sizeof(float) * (GMF + FIRST), LINE = 64 };

#define ALIGNED __attribute__((aligned(64)))
#define INLINE static inline __attribute__((always_inline)) TARGET

/* ROWS pairs are scored at a time: each weight is loaded once for all of them, and their sums stay in registers. */
#define NAMED(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512vl,fma")))
#define LANES 16
#define ROWS 8
#include "score_rows.h"
#undef NAMED
#undef TARGET
#undef LANES
#undef ROWS

#define NAMED(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 4
#include "score_rows.h"

#define COUNT(...) (sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

const uint64_t animora_shape_2[] = {1 + COUNT(WIDTHS), GMF, WIDTHS};

int animora_level_2(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("fma"))
        return 0;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
        return AVX512;
    return __builtin_cpu_supports("avx2") ? AVX2 : 0;
}

int animora_score_2(int level, const float *const *tensors, uint64_t user_rows, const int64_t *user_index,
                    uint64_t requests, const int64_t *segments, const float *posts, uint64_t post_rows,
                    const int64_t *post_index, float *logits, uint64_t pairs)
{
    const struct batch batch = {
        .users = tensors[0],
        .layers = tensors[1],
        .user_rows = user_rows,
        .user_index = user_index,
        .requests = requests,
        .segments = segments,
        .posts = posts,
        .post_rows = post_rows,
        .post_index = post_index,
        .logits = logits,
        .pairs = pairs,
    };
    switch (level) {
    case AVX512:
        return score_avx512(&batch);
    case AVX2:
        return score_avx2(&batch);
    default:
        return NO_SUCH_LEVEL;
    }
}

// Rows of a run have the bits of single rows, in ggml's kernels themselves (ADR 0021, 0024, 0026): products with weights of
// each format that mpispec promises, stored as in a file and laid out anew, and attention over 600 cells, all with one
// thread and with two. Needs no model and no Python, so it runs wherever libggml-cpu does, an emulated CPU included.
//
// Prints a line for each comparison; the exit code says whether all were equal.

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

using Floats = std::vector<float>;

static const int64_t WIDTH = 512, OUTPUTS = 48; // two blocks of a K-quant; several of the kernels' groups of rows
static const int64_t HEAD = 64, HEADS = 6, KV_HEADS = 2, CELLS = 768, SEEN = 600, ATTENDING = 8;
static const int     RUNS[]    = { 2, 3, 4, 5, 8, 16, 33, 63 }; // below a tile
static const int     THREADS[] = { 1, 2 };

static Floats noise(size_t count, unsigned seed) {
    std::mt19937                    random(seed);
    std::normal_distribution<float> normal;
    Floats                          values(count);
    for (float & value : values) {
        value = normal(random);
    }
    return values;
}

// A context of which the tensors' memory is its own, unless `no_alloc`.
struct Context {
    ggml_context * raw;
    explicit Context(bool no_alloc = false) : raw(ggml_init({ 32u << 20, nullptr, no_alloc })) {}
    ~Context() { ggml_free(raw); }
};

static Floats computed(const Context & context, ggml_tensor * result, int threads) {
    ggml_cgraph * graph = ggml_new_graph(context.raw);
    ggml_build_forward_expand(graph, result);
    if (ggml_graph_compute_with_ctx(context.raw, graph, threads) != GGML_STATUS_SUCCESS) {
        fprintf(stderr, "ggml could not compute\n");
        exit(2);
    }
    Floats found(ggml_nelements(result));
    memcpy(found.data(), result->data, ggml_nbytes(result));
    return found;
}

// The kind of memory in which weights are laid out anew; null where this CPU has none.
static ggml_backend_buffer_type_t laid_out_anew() {
    ggml_backend_reg_t registry = ggml_backend_cpu_reg();
    auto kinds = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        registry, "ggml_backend_dev_get_extra_bufts");
    for (auto kind = kinds(ggml_backend_reg_dev_get(registry, 0)); kind != nullptr && *kind != nullptr; ++kind) {
        if (std::string(ggml_backend_buft_name(*kind)) == "CPU_REPACK") {
            return *kind;
        }
    }
    return nullptr;
}

// Random weights (OUTPUTS, WIDTH) in one format.
struct Weights {
    Context               store;
    ggml_tensor *         tensor;
    ggml_backend_buffer_t buffer;
    bool                  is_held; // not every format is laid out anew on every CPU

    Weights(ggml_type type, ggml_backend_buffer_type_t kind) : store(true) {
        const Floats         values = noise(OUTPUTS * WIDTH, 1);
        std::vector<uint8_t> raw(OUTPUTS * ggml_row_size(type, WIDTH));
        ggml_quantize_chunk(type, values.data(), raw.data(), 0, OUTPUTS, WIDTH, nullptr);
        tensor = ggml_new_tensor_2d(store.raw, type, WIDTH, OUTPUTS);
        buffer = ggml_backend_alloc_ctx_tensors_from_buft(store.raw, kind);
        ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        is_held = kind == ggml_backend_cpu_buffer_type() || tensor->extra != nullptr;
        if (is_held) {
            ggml_backend_tensor_set(tensor, raw.data(), 0, raw.size());
        }
    }
    ~Weights() { ggml_backend_buffer_free(buffer); }
};

// Activations (rows, WIDTH) times the transposed weights: (rows, OUTPUTS).
static Floats product(const Weights & weights, const float * activations, int rows, int threads) {
    Context       context;
    ggml_tensor * vectors = ggml_new_tensor_2d(context.raw, GGML_TYPE_F32, WIDTH, rows);
    memcpy(vectors->data, activations, ggml_nbytes(vectors));
    return computed(context, ggml_mul_mat(context.raw, weights.tensor, vectors), threads);
}

// Attention of `rows` queries from the position SEEN - ATTENDING + first on: (rows, HEADS, HEAD).
static Floats attention(const Floats & queries, const Floats & cells, int first, int rows, int threads) {
    Context       context;
    ggml_tensor * q    = ggml_new_tensor_3d(context.raw, GGML_TYPE_F32, HEAD, rows, HEADS);
    ggml_tensor * k    = ggml_new_tensor_3d(context.raw, GGML_TYPE_F16, HEAD, CELLS, KV_HEADS);
    ggml_tensor * v    = ggml_new_tensor_3d(context.raw, GGML_TYPE_F16, HEAD, CELLS, KV_HEADS);
    ggml_tensor * mask = ggml_new_tensor_2d(context.raw, GGML_TYPE_F16, CELLS, rows);
    for (int64_t head = 0; head < HEADS; ++head) {
        memcpy((float *) q->data + head * rows * HEAD, queries.data() + (head * ATTENDING + first) * HEAD,
               rows * HEAD * sizeof(float));
    }
    ggml_fp32_to_fp16_row(cells.data(), (ggml_fp16_t *) k->data, ggml_nelements(k));
    ggml_fp32_to_fp16_row(cells.data() + ggml_nelements(k), (ggml_fp16_t *) v->data, ggml_nelements(v));
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t cell = 0; cell < CELLS; ++cell) {
            const bool is_seen = cell <= SEEN - ATTENDING + first + row;
            ((ggml_fp16_t *) mask->data)[row * CELLS + cell] = ggml_fp32_to_fp16(is_seen ? 0.0f : -INFINITY);
        }
    }
    ggml_tensor * result =
        ggml_flash_attn_ext(context.raw, q, k, v, mask, 1.0f / std::sqrt((float) HEAD), 0.0f, 0.0f);
    ggml_prec_set_acc(result, GGML_PREC_F32);
    return computed(context, result, threads);
}

static bool report(const std::string & what, int rows, int threads, const Floats & together, const Floats & single) {
    const bool is_equal = together.size() == single.size() &&
                          memcmp(together.data(), single.data(), single.size() * sizeof(float)) == 0;
    bool is_number = true;
    for (const float value : together) {
        is_number = is_number && std::isfinite(value);
    }
    printf("%s %s, %d rows, %d threads\n", !is_number ? "NO NUMBERS" : is_equal ? "equal" : "DIFFERENT", what.c_str(),
           rows, threads);
    return is_equal && is_number;
}

static bool compare_products(ggml_type type, const char * place, ggml_backend_buffer_type_t kind) {
    const Weights     weights(type, kind);
    const Floats      activations = noise(63 * WIDTH, 2);
    const std::string what        = std::string(ggml_type_name(type)) + " weights " + place;
    Floats            single;
    if (!weights.is_held) {
        return true;
    }
    for (int row = 0; row < 63; ++row) {
        const Floats one = product(weights, activations.data() + row * WIDTH, 1, 1);
        single.insert(single.end(), one.begin(), one.end());
    }
    bool are_equal = true;
    for (const int threads : THREADS) {
        for (const int rows : RUNS) {
            const Floats first(single.begin(), single.begin() + rows * OUTPUTS);
            are_equal &= report(what, rows, threads, product(weights, activations.data(), rows, threads), first);
        }
    }
    return are_equal;
}

static bool compare_attention() {
    const Floats queries = noise(HEADS * ATTENDING * HEAD, 3), cells = noise(2 * KV_HEADS * CELLS * HEAD, 4);
    Floats       single;
    for (int row = 0; row < ATTENDING; ++row) {
        const Floats one = attention(queries, cells, row, 1, 1);
        single.insert(single.end(), one.begin(), one.end());
    }
    bool are_equal = true;
    for (const int threads : THREADS) {
        Floats each;
        for (int row = 0; row < ATTENDING; ++row) {
            const Floats one = attention(queries, cells, row, 1, threads);
            each.insert(each.end(), one.begin(), one.end());
        }
        are_equal &= report("attention", 1, threads, each, single);
        are_equal &= report("attention", ATTENDING, threads, attention(queries, cells, 0, ATTENDING, threads), single);
    }
    return are_equal;
}

int main() {
    ggml_cpu_init();
    const ggml_type types[] = { GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_Q4_1, GGML_TYPE_Q4_0,
                                GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K };
    bool            are_equal = compare_attention();
    for (const ggml_type type : types) {
        are_equal &= compare_products(type, "as in a file", ggml_backend_cpu_buffer_type());
        if (laid_out_anew() != nullptr) {
            are_equal &= compare_products(type, "laid out anew", laid_out_anew());
        }
    }
    return are_equal ? 0 : 1;
}

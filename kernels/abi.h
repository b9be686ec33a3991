// The contract between the host and the kernels, written once: the Rust side is generated from this file.
//
// Every kernel takes one struct, by value. Pointers are device addresses. Strides count elements and are multiples of 8,
// so that every row starts on 16 bytes; what lies between a row's width and its stride is never read and never written.
// Matrices are row-major; a weight matrix is [outputs, inputs]. T stands for the kernel's element type, bf16 or fp16.
//
// A launch is captured once for a capacity and replayed for any batch that fits. So grids follow the capacity, and a
// kernel takes how much there is to do from the batch: blocks beyond it leave at once.
#pragma once
#include <stdint.h>

// Columns of a row that share one RowMoments, whatever the tile of the kernel that writes them.
constexpr uint32_t MOMENTS_COLUMNS = 128;

// Kernels that go along rows give each warp a row, and each block this many warps.
constexpr uint32_t ROW_WARPS = 8;

// What every norm adds to a variance.
constexpr float NORM_EPS = 1e-5f;

// Query rows of an AttentionItem at most.
constexpr uint32_t ATTENTION_QUERIES = 128;

// Slabs of the portable matrix kernels: columns of K in one, and how many lie in shared memory.
constexpr uint32_t GEMM_DEPTH = 32;
constexpr uint32_t GEMM_STAGES = 4;

// Threads of a block of flash_attention. Its shared memory is this many bytes for each element of a head, and as many
// more.
constexpr uint32_t ATTENTION_THREADS = 128;
constexpr uint32_t ATTENTION_SHARED_BYTES = 512;

// The matrix kernels of Hopper: columns of K in a slab, rows of a tile, rows and columns of the panels in which its output
// leaves shared memory, threads of a block, bytes of its shared memory.
constexpr uint32_t HOPPER_GEMM_DEPTH = 64;
constexpr uint32_t HOPPER_GEMM_ROWS = 128;
constexpr uint32_t HOPPER_GEMM_PANEL = 64;
constexpr uint32_t HOPPER_GEMM_THREADS = 384;
constexpr uint32_t HOPPER_GEMM_SHARED_BYTES = 229504;

// A map of a tensor for the bulk copies of Hopper, as the driver encodes it ("cuTensorMapEncodeTiled"): a member of a
// kernel's params, by value.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

// Mean and sum of squared deviations of up to MOMENTS_COLUMNS values of a row as they are stored, rounded to T. A row of
// C values has ceil(C / MOMENTS_COLUMNS) of them; they merge by Chan's rule, in order of their columns.
struct RowMoments {
    float mean;
    float squares;
};

// A tile that is computed.
struct TileSource {
    int32_t pixels;  // the tile's number in the pixel tensor; negative for a tile of zeros
    int32_t block;   // the block of the position tables that is added to it; negative where nothing is
};

// A row of the residual stream in the transformer.
struct TokenRow {
    int32_t tile;    // the computed tile; negative for an alignment row, which starts as zeros
    uint32_t token;  // the row within the tile; 0 is the class token
};

// A row of the residual stream in the gated layers.
struct GlobalRow {
    uint32_t source;  // the row of the transformer that it continues
    int32_t block;    // the block of the post-tile embedding that is added to it; negative where nothing is
};

// A row of the projection.
struct ProjectedRow {
    uint32_t head;    // its row in the gated layers
    uint32_t hidden;  // its row in the transformer, for the hidden states
    uint32_t output;  // its row in the embeddings
    uint32_t copies;  // equal rows: output, output + N, ... with N tokens a tile; at least 1
};

// Rows of the projection that lie one after another wherever they are read and written, as a row tile of the Hopper form.
struct ProjectionItem {
    uint32_t head_row;    // the first row's, as in ProjectedRow
    uint32_t hidden_row;
    uint32_t output_row;
    uint32_t num_rows;    // 1 to HOPPER_GEMM_ROWS
    uint32_t copies;      // of each
};

// Queries of one image that see the same keys.
struct AttentionItem {
    uint32_t query_row;       // first row
    uint32_t num_queries;     // 1 to ATTENTION_QUERIES
    uint32_t key_row;         // first row that they see
    uint32_t num_keys;        // at least 1
    uint32_t first_multiple;  // keys before this one, counted from key_row, stand for one row each
};

// Hopper's form of the same: queries of one image that see the same keys, all of them, in items of as many rows as the
// kernel takes at a time. Each head of each item is work, or several pieces of work where the keys are cut; works are
// counted head by head, an item's pieces after one another.
struct AttentionGroup {
    uint32_t end_work;        // one past the group's last work; works of the groups are counted through
    uint32_t query_row;       // first row
    uint32_t num_queries;     // at least 1
    uint32_t key_row;         // first row that they see
    uint32_t num_keys;        // at least 1
    uint32_t first_multiple;  // keys before this one, counted from key_row, stand for one row each
    uint32_t piece_keys;      // keys of a piece; num_keys or more where they are not cut
    uint32_t first_ticket;    // of a group whose keys are cut: a ticket for each head, item and 64 rows of the first item
};

// Pieces that the keys of a group are cut into, at most.
constexpr uint32_t ATTENTION_PIECES = 8;

// Query rows of a warpgroup: a ticket's.
constexpr uint32_t ATTENTION_TILE = 64;

// Counters of the schedule before the tickets: the next work, and the blocks that have found no more.
constexpr uint32_t ATTENTION_COUNTERS = 2;

// What a piece leaves of a ticket's rows beside the sums, floats of each of the warpgroup's 128 threads.
constexpr uint32_t ATTENTION_PARTIAL_EXTRA = 4;

// Shared memory of a block of Hopper's flash_attention: all there is, for there is one block on a multiprocessor.
constexpr uint32_t ATTENTION_HOPPER_SHARED_BYTES = 227 * 1024;

// Element types of a checkpoint, and of pixels.
constexpr uint32_t STORED_F32 = 0;
constexpr uint32_t STORED_BF16 = 1;
constexpr uint32_t STORED_FP16 = 2;

// The batch of one launch, uploaded with its pixels.
struct Batch {
    const void* pixels;                // [tiles of the input, channels, s, s]
    void* embeddings;                  // T [output rows, E], rows without gaps
    uint32_t num_tiles;                // computed tiles
    uint32_t num_patches;              // computed tiles times patches a tile
    uint32_t num_rows[2];              // rows of the transformer, rows of the gated layers
    uint32_t num_attention_items[2];   // likewise
    uint32_t num_projected_rows;
    uint32_t num_projection_items;
    uint32_t pixels_type;              // STORED_*
};

// patchify: pixels to patches.
struct PatchifyParams {
    const Batch* batch;
    const TileSource* tiles;  // [num_tiles]
    void* patches;            // T [num_tiles * P, stride], columns channel, row, column
    uint32_t stride;
    uint32_t channels;
    uint32_t tile_size;   // s, pixels
    uint32_t patch_size;  // p, pixels
    uint32_t grid_size;   // g = s / p; P = g * g
};

// patch_embedding: output = patches * weight^T.
struct PatchEmbeddingParams {
    const uint32_t* num_rows;
    const void* input;   // T [rows, input_stride], patch_len wide
    const void* weight;  // T [outputs, weight_stride]
    void* output;        // T [rows, output_stride]
    uint32_t inputs;     // patch_len
    uint32_t outputs;    // C
    uint32_t input_stride;
    uint32_t weight_stride;
    uint32_t output_stride;
};

// tile_position: pre-tile embedding, class token, token positions, the norm before the transformer.
struct TilePositionParams {
    const Batch* batch;            // num_rows[0]
    const TileSource* tiles;       // [num_tiles]
    const TokenRow* rows;          // [num_rows[0]]
    const void* patches;           // T [num_tiles * P, patches_stride]
    const void* pre_tile;          // T [blocks, width]; null in a model without tile embeddings
    const void* local;             // T [N, width]
    const void* global;            // T [blocks, N, width]; null in a model without tile embeddings
    const float* class_embedding;  // [width]
    const float* norm_weight;      // [width]
    const float* norm_bias;        // [width]
    void* output;                  // T [num_rows[0], output_stride]
    RowMoments* moments;           // [num_rows[0], ceil(width / MOMENTS_COLUMNS)]; null where nobody reads them
    float pre_tile_gate;           // tanh of the stored gate; 0 without tables
    float global_gate;             // tanh of the stored gate; 0 without tables
    uint32_t width;                // C
    uint32_t patches_stride;
    uint32_t output_stride;
    uint32_t tokens;               // N = P + 1
};

// tile_norm: the norm after the transformer and the post-tile embedding.
struct TileNormParams {
    const Batch* batch;        // num_rows[1]
    const GlobalRow* rows;     // [num_rows[1]]
    const void* input;         // T [num_rows[0], stride]
    const void* post_tile;     // T [blocks, width]; null in a model without tile embeddings
    const float* norm_weight;  // [width]
    const float* norm_bias;    // [width]
    void* output;              // T [num_rows[1], stride]
    RowMoments* moments;       // [num_rows[1], ceil(width / MOMENTS_COLUMNS)]; null where nobody reads them
    float post_tile_gate;      // tanh of the stored gate; 0 without tables
    uint32_t width;            // C
    uint32_t stride;
};

// layer_norm_linear: output = norm(input) * W^T + b, with the norm folded into weight, column_sum and bias:
// rstd * (input * weight^T - mean * column_sum) + bias.
struct LayerNormLinearParams {
    const uint32_t* num_rows;
    const void* input;           // T [rows, input_stride]
    const RowMoments* moments;   // [rows, ceil(inputs / MOMENTS_COLUMNS)]
    const void* weight;          // T [outputs, weight_stride], folded and centred
    const float* column_sum;     // [outputs], sums of the rows of weight as stored
    const float* bias;           // [outputs], folded
    void* output;                // T [rows, output_stride]
    uint32_t inputs;             // C
    uint32_t outputs;
    uint32_t input_stride;
    uint32_t weight_stride;
    uint32_t output_stride;
};

// flash_attention: softmax(scale * Q K^T + ln multiplicity) V, head by head.
struct FlashAttentionParams {
    const uint32_t* num_items;
    const AttentionItem* items;    // [num_items]
    const float* log2_multiplicity;  // [rows], base 2; read from first_multiple on
    const void* qkv;               // T [rows, qkv_stride]: queries of all heads, keys of all heads, values of all heads
    void* output;                  // T [rows, output_stride]
    float scale_log2;              // log2(e) / sqrt(head size of the model)
    uint32_t num_heads;
    uint32_t qkv_stride;
    uint32_t output_stride;
};

// The same on Hopper. Maps see a matrix of heads as [chunk of columns, row, column of the chunk], so that a box is a head's
// chunks after one another, each with the swizzle of its width: the widest power of two up to 64 that divides the head size.
struct HopperAttentionParams {
    TensorMap queries;          // of qkv; a box is ATTENTION_TILE rows
    TensorMap keys;             // of qkv; a box is a block of keys. Mixed: the first 64 columns of a head, chunks a head apart
    TensorMap key_tails;        // mixed: the other 16 columns, likewise
    TensorMap values;           // of qkv; a box is a block of keys
    TensorMap log2_multiplicity;  // f32 [1, rows], base 2; a box is a block of keys
    TensorMap output_tiles;     // of output; a box is ATTENTION_TILE rows
    const uint32_t* num_groups;
    const AttentionGroup* groups;  // [num_groups]
    uint32_t* counters;         // [ATTENTION_COUNTERS + tickets], zeros before and after
    float* partials;            // [tickets, ATTENTION_PIECES, head size / 2 + ATTENTION_PARTIAL_EXTRA, 128]
    void* output;               // T [rows, output_stride]
    float scale_log2;           // log2(e) / sqrt(head size of the model)
    uint32_t num_heads;
    uint32_t output_stride;
};

// linear_residual: output = residual + gate * (input * weight^T + bias).
struct LinearResidualParams {
    const uint32_t* num_rows;
    const void* input;      // T [rows, input_stride]
    const void* weight;     // T [outputs, weight_stride]
    const float* bias;      // [outputs], or null
    const void* residual;   // T [rows, output_stride]; may be output
    void* output;           // T [rows, output_stride]
    RowMoments* moments;    // of output, [rows, ceil(outputs / MOMENTS_COLUMNS)]; null where nobody reads them
    float gate;             // tanh of the stored gate; 1 in the transformer
    uint32_t inputs;
    uint32_t outputs;       // C
    uint32_t input_stride;
    uint32_t weight_stride;
    uint32_t output_stride;
};

// Hidden states that a projection reads at most.
constexpr uint32_t MAX_HIDDEN_STATES = 62;

// projection: embeddings = [head | hidden state 0 | hidden state 1 | ...] * weight^T + bias, the states where they lie.
struct ProjectionParams {
    const Batch* batch;
    const ProjectedRow* rows;  // [num_projected_rows]
    const void* head;          // T [num_rows[1], state_stride], width wide
    const void* weight;        // T [1 + num_hidden, outputs, weight_stride]: a state's columns together
    const float* bias;         // [outputs]
    uint32_t num_hidden;
    uint32_t width;            // C
    uint32_t outputs;          // E
    uint32_t state_stride;
    uint32_t weight_stride;
    uint32_t tokens;                         // N: rows between two copies
    const void* hidden[MAX_HIDDEN_STATES];   // T [num_rows[0], state_stride] each
};

// The matrix kernels of Hopper (sm90/): the same operations, their matrices as maps. A box of an input is
// HOPPER_GEMM_DEPTH columns of HOPPER_GEMM_ROWS rows, of a weight as many columns of a tile's columns; boxes of residual
// and output are panels. All with the 128-byte swizzle; what the maps say is not read from the plain struct.

struct HopperLayerNormLinearParams {
    TensorMap input;
    TensorMap weight;
    TensorMap output;
    LayerNormLinearParams plain;
};

struct HopperLinearResidualParams {
    TensorMap input;
    TensorMap weight;
    TensorMap residual;
    TensorMap output;
    LinearResidualParams plain;
};

struct HopperPatchEmbeddingParams {
    TensorMap input;
    TensorMap weight;
    TensorMap output;
    PatchEmbeddingParams plain;
};

// States that the projection of Hopper reads at most, the head among them.
constexpr uint32_t HOPPER_PROJECTION_STATES = 8;

struct HopperProjectionParams {
    TensorMap states[HOPPER_PROJECTION_STATES];  // the head, then the hidden states: T [rows, width] each
    TensorMap weight;                            // T [num_states, outputs, width]
    const Batch* batch;                          // num_projection_items
    const ProjectionItem* items;
    const float* bias;                           // [outputs]
    uint32_t num_states;
    uint32_t width;                              // C
    uint32_t outputs;                            // E
    uint32_t tokens;                             // N: rows between two copies
};

// The baseline: matrix products are a library's, into f32, and these kernels do the rest.

// layer_norm: output = norm(input).
struct LayerNormParams {
    const uint32_t* num_rows;
    const void* input;    // T [rows, stride]
    const float* weight;  // [width]
    const float* bias;    // [width]
    void* output;         // T [rows, stride]
    uint32_t width;
    uint32_t stride;
};

// bias_activation: output = activation(product + bias).
struct BiasActivationParams {
    const uint32_t* num_rows;
    const float* product;  // [rows, product_stride]
    const float* bias;     // [width], or null
    void* output;          // T [rows, output_stride]
    uint32_t width;
    uint32_t product_stride;
    uint32_t output_stride;
    uint32_t gelu;         // 0: none, 1: exact GELU
};

// gated_residual: output = residual + gate * (product + bias).
struct GatedResidualParams {
    const uint32_t* num_rows;
    const float* product;  // [rows, product_stride]
    const float* bias;     // [width], or null
    const void* residual;  // T [rows, output_stride]; may be output
    void* output;          // T [rows, output_stride]
    float gate;
    uint32_t width;
    uint32_t product_stride;
    uint32_t output_stride;
};

// gather_rows: the rows of one state that a projection reads, without gaps.
struct GatherRowsParams {
    const Batch* batch;
    const ProjectedRow* rows;  // [num_projected_rows]
    const void* input;         // T [rows of the state, stride]
    void* output;              // T [num_projected_rows, stride]
    uint32_t width;
    uint32_t stride;
    uint32_t hidden;           // 0: rows of the gated layers, 1: of the transformer
};

// scatter_embeddings: embeddings = product + bias, every row to all its places.
struct ScatterEmbeddingsParams {
    const Batch* batch;
    const ProjectedRow* rows;  // [num_projected_rows]
    const float* product;      // [num_projected_rows, product_stride]
    const float* bias;         // [outputs]
    uint32_t outputs;          // E
    uint32_t product_stride;
    uint32_t tokens;           // N: rows between two copies
};

// Loading: weights from the type they are stored in to the form the kernels read.

// place_weight: output[r, c] = input[r, column_start + c * column_step], converted to T. Rows come in groups
// of group_len that are group_stride apart in the output, rows between groups are zeros; columns likewise: what a head
// size that is padded, or columns that are interleaved, ask for.
struct PlaceWeightParams {
    const void* input;            // stored type, [rows, input_stride]; aligned to its elements, rows to nothing more
    void* output;                 // T [padded rows, output_stride]
    const float* norm_weight;     // [columns]: multiplies each column, or null
    uint32_t* num_not_finite;     // counts the elements that T cannot hold
    uint32_t stored;              // STORED_*
    uint32_t rows;                // of the input that is here
    uint32_t columns;             // that are taken
    uint32_t input_stride;
    uint32_t column_start;
    uint32_t column_step;
    uint32_t output_stride;
    uint32_t row_group_len;       // rows of a group, input
    uint32_t row_group_stride;    // rows of a group, output
    uint32_t column_group_len;    // columns of a group, input
    uint32_t column_group_stride; // columns of a group, output
    uint32_t centre;              // 1: the mean of each row, norm_weight applied, is taken off before rounding
};

// fold_norm: what a norm before a weight leaves beside it.
struct FoldNormParams {
    const void* input;         // stored type, [rows, input_stride]: the weight as it was; aligned to its elements
    const void* weight;        // T [padded rows, weight_stride]: the weight as place_weight left it
    const float* norm_bias;    // [columns]
    const float* bias;         // [rows], or null
    float* folded_bias;        // [padded rows]: input * norm_bias + bias; zeros between groups
    float* column_sum;         // [padded rows]: sums of the rows of weight
    uint32_t stored;           // STORED_*
    uint32_t rows;
    uint32_t columns;
    uint32_t input_stride;
    uint32_t weight_stride;
    uint32_t row_group_len;
    uint32_t row_group_stride;
};

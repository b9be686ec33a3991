// Tilesight: the Llama 3.2 Vision encoder. Pictures in; the embeddings that the decoder's cross-attention reads out.
//
// Every function that can fail returns a tilesight_status and leaves a message for its thread in tilesight_error(). No call
// ends the process: null, misaligned or stale arguments are refused as far as they can be told from good ones. Calls may
// come from any thread; those on one encoder run one after another.
//
// fork() copies none of the library's threads, nor a GPU's context. In a child of a process that had called any function that
// takes or makes an encoder, every such function returns TILESIGHT_STATUS_FORKED at once, for all encoders and for new ones.
// Call the library only after fork(), or have the child exec().
//
// A struct starts with its own size, which the caller sets: sizeof, of the header it was compiled with. Fields that a
// caller does not know, or leaves zero, have their defaults.


#ifndef TILESIGHT_H
#define TILESIGHT_H

#include <stddef.h>
#include <stdint.h>

// What a call came to.
typedef enum tilesight_status {
  // It did what it says.
  TILESIGHT_STATUS_OK = 0,
  // An argument is null, misaligned, of another size than it should be, or no text: nothing was done.
  TILESIGHT_STATUS_INVALID_ARGUMENT = 1,
  // There is no such encoder, or no longer.
  TILESIGHT_STATUS_INVALID_HANDLE = 2,
  // The memory for the embeddings is too small; what is needed has been said.
  TILESIGHT_STATUS_TOO_SMALL = 3,
  // A picture cannot be read, or is beyond the limits.
  TILESIGHT_STATUS_IMAGE = 4,
  // A tensor or an option does not fit the model.
  TILESIGHT_STATUS_INPUT = 5,
  // The configuration breaks a rule of the model.
  TILESIGHT_STATUS_CONFIG = 6,
  // The checkpoint is absent, damaged, or of another model.
  TILESIGHT_STATUS_CHECKPOINT = 7,
  // A file cannot be read.
  TILESIGHT_STATUS_IO = 8,
  // Memory of the host or the GPU lacks for this call; others are not affected.
  TILESIGHT_STATUS_OUT_OF_MEMORY = 9,
  // The device, the driver or the kernels asked for are not there.
  TILESIGHT_STATUS_UNAVAILABLE = 10,
  // A call to the GPU failed; others may succeed.
  TILESIGHT_STATUS_DEVICE = 11,
  // The GPU or the encoder is lost to this process: no call on it will succeed again.
  TILESIGHT_STATUS_LOST = 12,
  // The embeddings are no numbers: the weights are damaged.
  TILESIGHT_STATUS_NOT_FINITE = 13,
  // A fault of the library's own.
  TILESIGHT_STATUS_INTERNAL = 14,
  // This process is a child of fork() of one that had used the library: nothing was done, and no call here will succeed.
  TILESIGHT_STATUS_FORKED = 15,
} tilesight_status;

// An element type.
typedef enum tilesight_dtype {
  // IEEE 754 single precision.
  TILESIGHT_DTYPE_F32 = 0,
  // The upper half of single precision.
  TILESIGHT_DTYPE_BF16 = 1,
  // IEEE 754 half precision.
  TILESIGHT_DTYPE_F16 = 2,
} tilesight_dtype;

// What the padding tiles of a pixel tensor hold, which the host cannot see.
typedef enum tilesight_padding {
  // Anything: each is read and computed.
  TILESIGHT_PADDING_AS_GIVEN = 0,
  // Zeros: none is read, and equal ones are computed once.
  TILESIGHT_PADDING_ZEROS = 1,
} tilesight_padding;

// An encoder. Zero is none.
typedef struct tilesight_encoder {
  // Its number.
  uint64_t id;
} tilesight_encoder;

// What becomes of a picture.
typedef struct tilesight_picture {
  // sizeof(tilesight_picture), set by the caller.
  size_t size;
  // Width in pixels.
  uint32_t width;
  // Height in pixels.
  uint32_t height;
  // Tiles down.
  uint32_t tiles_down;
  // Tiles across.
  uint32_t tiles_across;
  // Its embeddings: tiles times tokens of a tile.
  uint64_t num_rows;
} tilesight_picture;

// Bytes in memory.
typedef struct tilesight_bytes {
  // Where they are.
  const uint8_t *data;
  // How many there are.
  size_t len;
} tilesight_bytes;

// Where embeddings go.
typedef struct tilesight_output {
  // sizeof(tilesight_output).
  size_t size;
  // [rows, embed_dim], row-major: image after image, tile after tile, token after token.
  void *data;
  // The bytes that are there.
  size_t capacity;
  // The type of the elements, a tilesight_dtype.
  uint32_t dtype;
  // Zero: anything else is refused.
  uint32_t reserved;
} tilesight_output;

// Tiles that are there already, as torchtune's and Hugging Face's models take them.
typedef struct tilesight_pixels {
  // sizeof(tilesight_pixels).
  size_t size;
  // [samples, images, tiles, channels, tile_size, tile_size], row-major, normalised; tiles row by row of an image's grid,
  // padding tiles last.
  const void *data;
  // The dimensions of `data`.
  uint64_t shape[6];
  // [samples, images, 2]: tiles down and tiles across of each image. May be null where there is one tile.
  const int64_t *aspect_ratio;
  // The type of `data`'s elements, a tilesight_dtype.
  uint32_t dtype;
  // Zero: anything else is refused.
  uint32_t reserved;
} tilesight_pixels;

// Tiles that are on a GPU.
typedef struct tilesight_device_pixels {
  // sizeof(tilesight_device_pixels).
  size_t size;
  // The address (CUdeviceptr) of what tilesight_pixels describes, a multiple of an element's size.
  uint64_t address;
  // Its dimensions.
  uint64_t shape[6];
  // In the host's memory, as tilesight_pixels has them.
  const int64_t *aspect_ratio;
  // The type of the elements, a tilesight_dtype.
  uint32_t dtype;
  // What the padding tiles hold, a tilesight_padding.
  uint32_t padding;
} tilesight_device_pixels;

// Memory of a GPU where embeddings go.
typedef struct tilesight_device_output {
  // sizeof(tilesight_device_output).
  size_t size;
  // The address (CUdeviceptr), a multiple of 16, of [rows, embed_dim] in the type that the encoder computes in.
  uint64_t address;
  // The bytes that are there.
  uint64_t capacity;
} tilesight_device_output;

// A stream of the caller's.
typedef struct tilesight_stream {
  // sizeof(tilesight_stream).
  size_t size;
  // The CUstream, in the primary context of the GPU; null is the default stream.
  void *stream;
  // A CUevent that is recorded on it behind the work, or null.
  void *done;
  // The GPU, by its place among the encoder's.
  uint32_t device;
  // Zero: anything else is refused.
  uint32_t reserved;
} tilesight_stream;

// What an encoder is made from. Texts are UTF-8; what is null or zero has its default.
typedef struct tilesight_options {
  // sizeof(tilesight_options).
  size_t size;
  // The checkpoint: a folder, a safetensors file, or an index of shards. None takes the built-in demo model, whose
  // embeddings mean nothing.
  const char *model;
  // The config.json, where it is not beside the weights.
  const char *config;
  // "torchtune" or "meta": which function of the weights. By default what the tensors' names stand for.
  const char *semantics;
  // "torchtune", "torchtune-bf16" or "pil": how pictures become tiles. By default the semantics' own.
  const char *preprocess;
  // "auto", "cpu", "cuda", or GPUs by number: "cuda:0,1".
  const char *device;
  // "f32" on the CPU, "bf16" or "fp16" on GPUs: the type to compute in.
  const char *dtype;
  // "auto", "hopper", "portable" or "cublas": the kernels on GPUs.
  const char *kernels;
  // Threads to compute on where the CPU does it; 0 takes one for each core.
  uint32_t threads;
  // The most tiles that are computed together; 0 takes 8.
  uint32_t max_batch_tiles;
} tilesight_options;

// What an encoder is.
typedef struct tilesight_description {
  // sizeof(tilesight_description), set by the caller.
  size_t size;
  // Side of a tile in pixels.
  uint32_t tile_size;
  // The most tiles a picture is cut into.
  uint32_t max_num_tiles;
  // Channels of a pixel; pictures need 3.
  uint32_t in_channels;
  // Embeddings of a tile, its class token first.
  uint32_t num_tokens;
  // Values of an embedding.
  uint32_t embed_dim;
  // The type it computes in, a tilesight_dtype.
  uint32_t computed_in;
  // Which function of the weights: 0 is torchtune's, 1 is Meta's.
  uint32_t semantics;
  // Threads of the host that it computes on.
  uint32_t num_threads;
  // The digest of all that decides the bits of its embeddings, but its input.
  uint8_t identity[32];
} tilesight_description;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Says what becomes of a picture (JPEG, PNG or WebP), from its header alone: enough to know the memory that its embeddings
// need, num_rows times embed_dim elements.
//
// # Safety
// `file` points to `len` readable bytes, or is null; `picture` is null or points to a struct of the size it says, which
// may be written.
enum tilesight_status tilesight_measure(struct tilesight_encoder encoder,
                                        const uint8_t *file,
                                        size_t len,
                                        struct tilesight_picture *picture);

// Encodes pictures (JPEG, PNG or WebP), in batches of at most max_batch_tiles. The embeddings of each are those that it
// has alone, as many as tilesight_measure says; `num_rows`, which may be null, is told how many there are in all, also
// where the memory is too small for them.
//
// # Safety
// `pictures` points to `count` elements, each with so many readable bytes as it says; `output` is null or points to a
// struct of the size it says, whose memory may be written and is used by nobody else during the call; `num_rows` is null
// or may be written.
enum tilesight_status tilesight_encode_pictures(struct tilesight_encoder encoder,
                                                const struct tilesight_bytes *pictures,
                                                size_t count,
                                                const struct tilesight_output *output,
                                                uint64_t *num_rows);

// Encodes a pixel tensor, as torchtune's forward(images, aspect_ratio) does: samples times images times tiles times
// tokens rows, those of padding tiles included.
//
// # Safety
// `pixels` is null or points to a struct of the size it says, whose data and aspect ratios are readable; `output` as for
// tilesight_encode_pictures.
enum tilesight_status tilesight_encode_pixels(struct tilesight_encoder encoder,
                                              const struct tilesight_pixels *pixels,
                                              const struct tilesight_output *output);

// Enqueues the encoding of a pixel tensor that is on a GPU. It begins when what the stream was given before is done, and
// what the stream is given later begins when the embeddings are there, in the type that the encoder computes in. Nothing
// is copied, and the host waits only for the first batch of a shape and where it is eight batches ahead.
//
// # Safety
// `pixels`, `output` and `stream` are null or point to structs of the sizes they say, and the aspect ratios are readable.
// The stream and the event live. Until the work is done, nobody frees the memory, nobody writes the pixels, and nobody
// uses the embeddings but on the stream or behind it.
enum tilesight_status tilesight_enqueue_pixels(struct tilesight_encoder encoder,
                                               const struct tilesight_device_pixels *pixels,
                                               const struct tilesight_device_output *output,
                                               const struct tilesight_stream *stream);

// tilesight_enqueue_pixels for pictures (JPEG, PNG or WebP), which are decoded and copied before this returns. The host
// waits also where it is two batches ahead. `num_rows`, which may be null, is told how many embeddings there are.
//
// # Safety
// `pictures` as for tilesight_encode_pictures, the rest as for tilesight_enqueue_pixels.
enum tilesight_status tilesight_enqueue_pictures(struct tilesight_encoder encoder,
                                                 const struct tilesight_bytes *pictures,
                                                 size_t count,
                                                 const struct tilesight_device_output *output,
                                                 const struct tilesight_stream *stream,
                                                 uint64_t *num_rows);

// Makes an encoder. Null options take every default. The weights are read once, into memory of the
// encoder's: what becomes of the files later changes no result.
//
// # Safety
// `options` is null or points to a struct of the size it says, whose texts end with a zero; `encoder` is null or may be
// written.
enum tilesight_status tilesight_open(const struct tilesight_options *options, struct tilesight_encoder *encoder);

// Closes an encoder and gives its memory back, once calls that are under way have ended.
enum tilesight_status tilesight_close(struct tilesight_encoder encoder);

// Says what an encoder is.
//
// # Safety
// `description` is null or points to a struct of the size it says, which may be written.
enum tilesight_status tilesight_describe(struct tilesight_encoder encoder, struct tilesight_description *description);

// The library's version: "0.1.0".
const char *tilesight_version(void);

// The message of this thread's last call that failed, UTF-8; empty before the first. It is valid until the thread's next
// call that fails.
const char *tilesight_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TILESIGHT_H */

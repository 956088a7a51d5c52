/* The C ABI of the kernels: bare declarations, read by the compiler through nck.h and by cffi.

   Two libraries offer it: libnck computes on the CPU, libnck_cuda on an NVIDIA GPU; both have the
   three functions that come first. Every other function returns a status; after one that is not
   NCK_OK the calling thread finds a message in nck_last_error(), one line that names the thing, the
   rule and the value, until its next failure. A call that fails has written nothing, but
   after NCK_MEMORY some rows may be done.

   Matrices are rows × vocab, the last dimension contiguous, row_stride elements between the first
   elements of neighbouring rows. threads: how many may work, at least 1; results have the same bits
   for any number. stream: a cudaStream_t of the current device; a CUDA call only queues work.
   "number" is float for logits of NCK_FLOAT32, NCK_BFLOAT16 and NCK_FLOAT16, double for
   NCK_FLOAT64. */

enum { NCK_ABI_VERSION = 4 };

/* Status. */
enum {
  NCK_OK = 0,
  NCK_ARGUMENT = 1, /* a size, stride, option or pointer that no call may have */
  NCK_TARGET = 2,   /* a target that is neither a token nor ignore_index */
  NCK_LOGITS = 3,   /* a row from which nothing can be drawn */
  NCK_MEMORY = 4,   /* no memory for the working space */
  NCK_DEVICE = 5    /* the CUDA runtime refused; its own words are in the message */
};

/* Element types. The CUDA library has no NCK_FLOAT64. */
enum { NCK_FLOAT32 = 0, NCK_FLOAT64 = 1, NCK_BFLOAT16 = 2, NCK_FLOAT16 = 3 };

/* Activations of a model's MLP: max(x, 0), and its square. */
enum { NCK_RELU = 0, NCK_RELU2 = 1 };

/* Reductions of the losses. */
enum { NCK_NONE = 0, NCK_MEAN = 1, NCK_SUM = 2 };

/* What is asked of a loss. With z the row's logits after the soft-cap, t its target, c the class
   weights, w the row's token weight, ε label_smoothing and lse = log Σ exp z:

     loss = w · ((1 − ε) · c[t] · (lse − z[t]) + ε / vocab · Σ_j c[j] · (lse − z[j])
                 + z_loss · lse²)

   0 for a row whose target is ignore_index. NCK_MEAN divides the sum of the losses by
   Σ w · c[t] over the other rows: NaN if there are none, like torch. */
typedef struct {
  int64_t ignore_index;
  double label_smoothing; /* 0 … 1 */
  double z_loss;          /* at least 0 */
  double softcap;         /* z = softcap · tanh(logit / softcap), 1e-30 … 1e30; 0: z = logit */
  int32_t reduction;
} nck_loss;

/* The matrices of one layer, (out, in), of the model's dtype. */
typedef struct {
  const void* wqkv; /* (3 * n_embd, n_embd): queries, keys, values, in each head by head */
  const void* wo;   /* (n_embd, n_embd) */
  const void* fc1;  /* (4 * n_embd, n_embd) */
  const void* fc2;  /* (n_embd, 4 * n_embd) */
} nck_gpt_layer;

/* A GPT. With norm(x) = x / sqrt(mean x² + eps), for a token t at position p:

     x = wte[t] + wte[k · vocab + the token k before] … + the row of each n-gram that t ends …
         + wpe[p], for k up to past_embeds, n from 2 to ngram_longest, and as far as tokens were
         read; normed under input_norm
     in each layer   x += wo · attention(wqkv · norm(x)), then x += fc2 · activation(fc1 · norm(x))
     logits = lm_head · x, then softcap · tanh(logits / softcap)

   In a head, queries and keys are rotated in halves by the angles p · rope_base^(−2j / head_dim),
   normed under qk_norm, and softmax(q · k / √head_dim) weighs the values of the last block_size
   tokens.

   The n-gram of the tokens t, t1 before it, t2 before that, … has the row (past_embeds + 1) · vocab
   + ⌊⌊key / 2^32⌋ · ngram_rows / 2^32⌋ with key = (… ((t + 1) · M + t1 + 1) · M + …) · M modulo
   2^64 and M = 0x9E3779B97F4A7C15. */
typedef struct {
  int64_t vocab, n_embd, n_layer, n_head, block_size; /* head_dim = n_embd / n_head */
  int64_t past_embeds;                                /* 0 … 2^10 */
  int64_t ngram_rows;                                 /* 0 … 2^31; 0: no n-grams */
  int64_t ngram_longest;                              /* 2 … 2^10 where there are rows */
  int32_t dtype;               /* of the matrices; NCK_FLOAT16 is not offered */
  int32_t activation;          /* NCK_RELU or NCK_RELU2 */
  int32_t input_norm, qk_norm; /* 0 or 1 */
  double eps;                  /* at least 0 */
  double rope_base;            /* at least 1; 0: no rotation */
  double softcap;              /* as in nck_loss */
  const void* wte;             /* ((past_embeds + 1) * vocab + ngram_rows, n_embd) numbers */
  const void* wpe;             /* (block_size, n_embd) numbers, or NULL */
  const void* lm_head;         /* (vocab, n_embd) of dtype */
  const nck_gpt_layer* layers; /* n_layer */
} nck_gpt;

/* What an embedding adds up: the rows of one table that nck_gpt names for each token. */
typedef struct {
  int64_t vocab, width; /* width: numbers in a row */
  int64_t past_embeds;  /* these three as in nck_gpt */
  int64_t ngram_rows;
  int64_t ngram_longest;
  int32_t dtype; /* NCK_FLOAT32 or NCK_FLOAT64: of the table and all else */
} nck_embeddings;

/* A model that reads texts of its own, token by token; what it has read is in its cache. */
typedef struct nck_decoder nck_decoder;

int32_t nck_abi_version(void);
const char* nck_last_error(void);
/* The instruction set or GPU architectures that the library's code is for, such as "avx512". */
const char* nck_target(void);

/* ── libnck: the CPU ─────────────────────────────────────────────────────────────────────────────
 */

/* Losses and their gradient in one pass over the logits.

   targets: rows. class_weights: vocab numbers, or NULL for ones. token_weights: rows numbers, or
   NULL for ones. upstream: the derivative of what is minimised by the result, a number for each row
   (upstream_stride 1) or one for all (upstream_stride 0), or NULL for 1.

   gradient: NULL, or where the gradient goes, of the logits' dtype; may be the logits themselves
   with the same stride, and overlaps them in no other way. losses: NULL, or rows numbers under
   NCK_NONE, else one. log_sums: NULL, or rows numbers, lse. correct: NULL, or numbers as `losses`:
   1 for a row whose largest logit, the first of equal ones, is its target's, and their sum or,
   under NCK_MEAN, their share of the rows that are not ignored.

   A NaN or +inf among a row's logits, or nothing but -inf, makes its loss, lse and whole gradient
   NaN; a target whose logit is -inf has a loss of +inf and a finite gradient. Under a soft-cap an
   infinite logit is ±softcap. Ignored rows have gradients of 0 whatever they hold. */
int32_t nck_cross_entropy(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                          int32_t dtype, const int64_t* targets, const void* class_weights,
                          const void* token_weights, const nck_loss* loss, const void* upstream,
                          int64_t upstream_stride, void* gradient, int64_t gradient_stride,
                          void* losses, void* log_sums, void* correct, int32_t threads);

/* Σ w · c[t] over the rows that are not ignored, what NCK_MEAN divides by; *counted, unless NULL,
   is the number of those rows. Checks the targets as nck_cross_entropy does. */
int32_t nck_target_weight(const int64_t* targets, int64_t rows, int64_t vocab, int32_t dtype,
                          const void* class_weights, const void* token_weights,
                          int64_t ignore_index, double* weight, int64_t* counted);

/* result[i][j] = matrix[i][j] · upstream[i · upstream_stride]; result may be the matrix. A factor
   of exactly 1 costs nothing in place. bfloat16 results below 2⁻¹²⁶ may be 0. */
int32_t nck_scale_rows(const void* matrix, int64_t rows, int64_t vocab, int64_t row_stride,
                       int32_t dtype, const void* upstream, int64_t upstream_stride, void* result,
                       int64_t result_stride, int32_t threads);

/* One token a row, the tokens of nanochat/training/draw.py to the bit.

   random: a 64-bit integer a row, or NULL: then state is {seed, item of the first row, index} and
   row i takes integer `index` of Philox item `items[i]`, or of `first item + i` where items is
   NULL, in the stream of sampling. top_k 0 and top_p 1 keep all. vocab is at most 2^20.

   NCK_LOGITS names the first row that holds NaN or nothing above -inf; tokens of such rows are -1
   and -2, those of the others are drawn. */
int32_t nck_sample(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                   int32_t dtype, const uint64_t* random, const int64_t* state,
                   const int64_t* items, double temperature, int64_t top_k, double top_p,
                   int64_t* tokens, int32_t threads);

/* sums: (rows · columns, width), the sum of the table's rows of each token. tokens: rows · columns
   of them, in [0, vocab). starts: the first column of its row that a token looks back to, for each
   token, or NULL for 0. */
int32_t nck_embed(const nck_embeddings* embeddings, const void* table, const int64_t* tokens,
                  int64_t rows, int64_t columns, const int64_t* starts, void* sums,
                  int32_t threads);
/* table_gradient += the derivative of Σ gradient · sums by the table. */
int32_t nck_embed_backward(const nck_embeddings* embeddings, const int64_t* tokens, int64_t rows,
                           int64_t columns, const int64_t* starts, const void* gradient,
                           void* table_gradient, int32_t threads);

/* What a transformer block does between its matrix products. Matrices are contiguous; `x`, `onto`
   and what is said to be numbers are the residual stream, numbers; all else is of the dtype.

   sum = x + branch, or x alone where branch is NULL (sum is then not written and may be NULL);
   inverse = (mean(sum²) + eps)^−½ of each row, numbers; normed = sum · inverse. sum may be x. */
int32_t nck_rms_norm(const void* x, const void* branch, int64_t rows, int64_t width, int32_t dtype,
                     double eps, void* sum, void* normed, void* inverse, int32_t threads);

/* result = onto + the derivative of Σ gradient · normed by x, numbers; may be onto. narrow: NULL,
   or where the result goes in the dtype too. x and inverse as nck_rms_norm made them. */
int32_t nck_rms_norm_backward(const void* gradient, const void* x, const void* inverse,
                              const void* onto, int64_t rows, int64_t width, int32_t dtype,
                              void* result, void* narrow, int32_t threads);

/* result = max(x, 0), squared or not; may be x. */
int32_t nck_activation(const void* x, int64_t count, int32_t dtype, int32_t squared, void* result,
                       int32_t threads);
/* gradient ·= the derivative of nck_activation at x. */
int32_t nck_activation_backward(const void* x, int64_t count, int32_t dtype, int32_t squared,
                                void* gradient, int32_t threads);

/* Causal attention of rows · width tokens, each with 3 · heads · head_dim elements in qkv: queries,
   keys, values, head by head. A query or key is rotated by its token's angles, with
   a = its first half, b = its second: (a·cos + b·sin, b·cos − a·sin); then, if normed, divided by
   its root mean square. Softmax of q·k / √head_dim over the columns from starts to the token's own.

   cosines, sines: head_dim / 2 numbers for each position, or NULL for no rotation; positions: a row
   of these tables for each token. starts: the first visible column for each token, not falling
   along a row, or NULL for 0. mixed: rows · width · heads · head_dim. */
typedef struct {
  int64_t rows, width, heads, head_dim; /* width at most 2^12, head_dim at most 2^10 */
  double eps;
  int32_t dtype;
  int32_t normed;
} nck_attention_shape;

int32_t nck_attention(const nck_attention_shape* shape, const void* qkv, const void* cosines,
                      const void* sines, const int64_t* positions, const int64_t* starts,
                      void* mixed, int32_t threads);
/* gradient: of mixed; result: of qkv. The weights are computed again from qkv. */
int32_t nck_attention_backward(const nck_attention_shape* shape, const void* qkv,
                               const void* cosines, const void* sines, const int64_t* positions,
                               const int64_t* starts, const void* gradient, void* result,
                               int32_t threads);

/* A decoder of `rows` texts. The matrices are copied, in the order in which they will be read; wte
   and wpe are not: they must stay where they are until the decoder is closed. Keys, values and what
   stands between them are numbers, whatever the matrices' dtype. */
int32_t nck_open_decoder(const nck_gpt* model, int64_t rows, nck_decoder** decoder);
void nck_close_decoder(nck_decoder* decoder);

/* Reads (rows, width) tokens, each row's at the positions first, first + 1 …, and writes the logits
   of the next token, (rows, vocab) numbers. first: how many tokens were read, or 0, which forgets
   them. first + width is at most block_size, but that one token of a model without wpe may come
   behind any number: it takes the place of the oldest in the cache. A row's logits have the same
   bits whatever rows are beside it and however its tokens came. One call at a time. */
int32_t nck_decode(nck_decoder* decoder, const int64_t* tokens, int64_t width, int64_t first,
                   void* logits, int32_t threads);

/* Memory for large results: at least `bytes`, aligned to 64 bytes, on huge pages where the system
   has them. What is given back is kept for the next taker, up to NCK_BUFFERS_KEPT of them, and
   belongs to the system as soon as it runs short. */
enum { NCK_BUFFERS_KEPT = 4 };
int32_t nck_take_buffer(int64_t bytes, void** buffer);
void nck_give_buffer(void* buffer);
/* Bytes that are kept for the next taker now. */
int64_t nck_kept_bytes(void);
/* Returns all that is kept to the system. */
void nck_drop_buffers(void);

/* ── libnck_cuda: an NVIDIA GPU ──────────────────────────────────────────────────────────────────
 */

/* As nck_cross_entropy, every pointer on the device but `loss`. workspace: as many bytes as
   nck_cuda_workspace says, aligned to 16, free again when the stream has passed the call. A target
   that is neither a token nor ignore_index makes its row's loss, lse and gradient NaN. */
int64_t nck_cuda_workspace(int64_t rows, int64_t vocab, int32_t dtype);
int32_t nck_cuda_cross_entropy(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                               int32_t dtype, const int64_t* targets, const void* class_weights,
                               const void* token_weights, const nck_loss* loss,
                               const void* upstream, int64_t upstream_stride, void* gradient,
                               int64_t gradient_stride, void* losses, void* log_sums, void* correct,
                               void* workspace, void* stream);

/* *weight, on the device, one number: Σ w · c[t] as in nck_target_weight. */
int32_t nck_cuda_target_weight(const int64_t* targets, int64_t rows, int64_t vocab, int32_t dtype,
                               const void* class_weights, const void* token_weights,
                               int64_t ignore_index, void* weight, void* stream);

int32_t nck_cuda_scale_rows(const void* matrix, int64_t rows, int64_t vocab, int64_t row_stride,
                            int32_t dtype, const void* upstream, int64_t upstream_stride,
                            void* result, int64_t result_stride, void* stream);

/* As nck_sample, every pointer on the device, state too, so that a captured graph can advance it. A
   row that holds NaN or nothing above -inf gets the token -1 or -2. */
int32_t nck_cuda_sample(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                        int32_t dtype, const uint64_t* random, const int64_t* state,
                        const int64_t* items, double temperature, int64_t top_k, double top_p,
                        int64_t* tokens, void* workspace, void* stream);

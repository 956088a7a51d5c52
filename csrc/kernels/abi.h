/* The C ABI of the kernels: plain declarations, read by the compiler through nck.h and by cffi.

   Two libraries implement it: libnck on the CPU, libnck_cuda on an NVIDIA GPU. Both have the first
   three functions. Every other function returns a status. After a status other than NCK_OK the
   calling thread finds a message in nck_last_error() until its next failure: one line that names
   the argument, the rule and the value. A call that fails has written nothing, except that after
   NCK_MEMORY some rows may be done.

   Matrices are rows × vocab. The last dimension is contiguous; row_stride is the number of elements
   between the first elements of adjacent rows. threads: the most threads that may work, at least 1;
   results are bit-identical for any number. stream: a cudaStream_t of the current device; a CUDA
   call only queues work.

   "accum" is the accumulation dtype of a call: float for NCK_FLOAT32, NCK_BFLOAT16 and NCK_FLOAT16,
   double for NCK_FLOAT64. */

enum { NCK_ABI_VERSION = 13 };

/* Status. */
enum {
  NCK_OK = 0,
  NCK_ARGUMENT = 1, /* a size, stride, option or pointer that no call accepts */
  NCK_TARGET = 2,   /* a target that is neither a token nor ignore_index */
  NCK_LOGITS = 3,   /* a row from which no token can be drawn */
  NCK_MEMORY = 4,   /* no memory for the working space */
  NCK_DEVICE = 5    /* an error of the CUDA runtime, whose message is included */
};

/* Element types. The CUDA library has no NCK_FLOAT64. */
enum { NCK_FLOAT32 = 0, NCK_FLOAT64 = 1, NCK_BFLOAT16 = 2, NCK_FLOAT16 = 3 };

/* Activations of a model's MLP: max(x, 0), and its square. */
enum { NCK_RELU = 0, NCK_RELU2 = 1 };

/* Reductions of the losses. */
enum { NCK_NONE = 0, NCK_MEAN = 1, NCK_SUM = 2 };

/* The options of a loss. With z the row's logits after the soft-cap, t its target, c the class
   weights, w the row's token weight, ε label_smoothing and lse = log Σ exp z:

     loss = w · ((1 − ε) · c[t] · (lse − z[t]) + ε / vocab · Σ_j c[j] · (lse − z[j])
                 + z_loss · lse²)

   The loss of a row whose target is ignore_index is 0. NCK_MEAN divides the sum of the losses by
   Σ w · c[t] over the other rows; as in torch, the result is NaN if there are none. */
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

     x = wte[t] + Σ_k wte[k · vocab + the k-th token before t] + Σ_n the row of the n-gram that
         ends with t + wpe[p], for k from 1 to prev_token_tables and n from 2 to
         hash_embed_longest, as far as tokens were read; then norm(x) if input_norm
     in each layer   x += wo · attention(wqkv · norm(x)), then x += fc2 · activation(fc1 · norm(x))
     y = norm(x) if output_norm, otherwise x
     logits = lm_head · y, then softcap · tanh(logits / softcap)

   In a head, queries and keys are rotated in halves by the angles p · rope_base^(−2j / head_dim),
   then normed if qk_norm, and softmax(q · k / √head_dim) weighs the values of the last block_size
   tokens.

   The n-gram of the tokens t, t1 before it, t2 before that, … has the row
   (prev_token_tables + 1) · vocab + ⌊⌊key / 2^32⌋ · hash_embed_rows / 2^32⌋ with
   key = (… ((t + 1) · M + t1 + 1) · M + …) · M modulo 2^64 and M = 0x9E3779B97F4A7C15. */
typedef struct {
  int64_t vocab, n_embd, n_layer, n_head, block_size; /* head_dim = n_embd / n_head */
  int64_t prev_token_tables;                          /* 0 … 2^10 */
  int64_t hash_embed_rows;                            /* 0 … 2^31; 0: no n-grams */
  int64_t hash_embed_longest;                         /* 2 … 2^10 if there are rows */
  int32_t dtype;                            /* of the matrices; NCK_FLOAT16 is not supported */
  int32_t activation;                       /* NCK_RELU or NCK_RELU2 */
  int32_t input_norm, qk_norm, output_norm; /* 0 or 1 */
  double eps;                               /* at least 0 */
  double rope_base;                         /* at least 1; 0: no rotation */
  double softcap;                           /* as in nck_loss */
  const void* wte;     /* ((prev_token_tables + 1) * vocab + hash_embed_rows, n_embd) accum */
  const void* wpe;     /* (block_size, n_embd) accum, or NULL */
  const void* lm_head; /* (vocab, n_embd) of dtype */
  const nck_gpt_layer* layers; /* n_layer */
} nck_gpt;

/* The sizes of an embedding: a token's sum of the rows of one table, as in nck_gpt. */
typedef struct {
  int64_t vocab, hidden_size; /* hidden_size: elements of a row */
  int64_t prev_token_tables;  /* these three as in nck_gpt */
  int64_t hash_embed_rows;
  int64_t hash_embed_longest;
  int32_t dtype; /* of the table and of all other matrices: NCK_FLOAT32 or NCK_FLOAT64 */
} nck_embeddings;

/* A model that reads rows of tokens step by step, with a cache of the keys and values read. */
typedef struct nck_decoder nck_decoder;

/* The counts of the n-grams of a text. Holds the text, too. */
typedef struct nck_ngrams nck_ngrams;
typedef struct nck_adaptive nck_adaptive;

/* The counts as arrays, to write them to a file and to open them again. Each is as the counting
   left it, in the byte order of the machine; csrc/kernels/cpu/ngram/table.hpp says what they hold.
   The sizes count rows. Counts with a cut-off hold no text: their stream is one BOS. */
typedef struct {
  int64_t order, vocab, targets;
  int64_t stream_size, nodes_size, children_size, followers_size, dropped_size;
  const uint32_t* stream;          /* (stream_size) the text */
  const uint32_t* nodes;           /* (nodes_size, 2) */
  const uint32_t* children;        /* (children_size, 2) */
  const uint32_t* followers;       /* (followers_size, 3) */
  const uint32_t* dropped;         /* (dropped_size, 2) */
  const double* discounts;         /* (order, 2, 3) */
  const int64_t* counts_of_counts; /* (order, 2, 4), or NULL without a cut-off */
} nck_ngram_arrays;

/* Texts that a network and counts continue together. The network has one output z[vocab] more than
   the vocabulary. With lse the logarithm of Σ exp z[w] over the tokens, the share g of the counts
   has log(g / (1 − g)) = share_scale · (z[vocab] − lse) + share_offset, and
   p(w) = (1 − g) · exp(z[w] − lse) + g · p_counts(w | context). */
typedef struct {
  const nck_ngrams* ngrams;
  const int64_t* contexts; /* (rows, context_length), each as in nck_ngram_distributions */
  int64_t context_length, context_stride; /* context_stride: between the first tokens of rows */
  const void* logits;                     /* (rows, vocab + 1) */
  int64_t rows, row_stride;
  double share_scale, share_offset;
  int32_t dtype; /* NCK_FLOAT32 or NCK_FLOAT64 */
} nck_mixture;

int32_t nck_abi_version(void);
const char* nck_last_error(void);
/* The instruction set or GPU architectures that the library's code is compiled for, such as
   "avx512". */
const char* nck_target(void);

/* ── libnck: the CPU ─────────────────────────────────────────────────────────────────────────────
 */

/* Losses and their gradient in one pass over the logits.

   targets: (rows). class_weights: (vocab) accum, or NULL for ones. token_weights: (rows) accum, or
   NULL for ones. upstream: the gradient of the result, accum: one value per row (upstream_stride
   1) or one for all rows (upstream_stride 0), or NULL for 1.

   gradient: NULL, or where to write the gradient, of the logits' dtype; may be the logits with the
   same stride, and must not overlap them otherwise. losses: NULL, or accum: (rows) under NCK_NONE,
   otherwise one value. log_sums: NULL, or (rows) accum: lse. correct: NULL, or accum with the shape
   of `losses`: 1 for a row whose largest logit, the first of equal ones, is its target's; their sum
   under NCK_SUM; the share of such rows among those that are not ignored under NCK_MEAN.

   A row with NaN or +inf, or with nothing but -inf, has a loss, an lse and a whole gradient of NaN.
   A target whose logit is -inf has a loss of +inf and a finite gradient. Under a soft-cap an
   infinite logit is ±softcap. Ignored rows have gradients of 0 for any logits. */
int32_t nck_cross_entropy(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                          int32_t dtype, const int64_t* targets, const void* class_weights,
                          const void* token_weights, const nck_loss* loss, const void* upstream,
                          int64_t upstream_stride, void* gradient, int64_t gradient_stride,
                          void* losses, void* log_sums, void* correct, int32_t threads);

/* *weight = Σ w · c[t] over the rows that are not ignored, by which NCK_MEAN divides. *counted,
   unless NULL, is the number of those rows. Checks the targets as nck_cross_entropy does. */
int32_t nck_target_weight(const int64_t* targets, int64_t rows, int64_t vocab, int32_t dtype,
                          const void* class_weights, const void* token_weights,
                          int64_t ignore_index, double* weight, int64_t* counted);

/* Losses of a network that shares its softmax with counted n-grams (Merity et al. 2017), and their
   gradient. The last of a row's outputs is the share of the counts, the others are tokens. With p =
   softmax(z), z the row's logits after the soft-cap, share_offset added to the last, and t its
   target:

     network = −log(p[t] / (1 − p[last])),   mixed = −log(p[t] + p[last] · by_counts)

   logits: (rows, outputs), at least 2 outputs. targets: (rows), each in [0, outputs − 1) or
   ignore_index, whose row has losses and gradients of 0. by_counts: (rows) probability of the
   target by the counts. reduction: NCK_NONE or NCK_SUM. gradient: NULL, or where to write the
   gradient of mixed + network_weight · network, as in nck_cross_entropy. mixed, network: NULL, or
   accum: (rows), or one value under NCK_SUM. */
int32_t nck_mixed_cross_entropy(const void* logits, int64_t rows, int64_t outputs,
                                int64_t row_stride, int32_t dtype, const int64_t* targets,
                                const float* by_counts, int64_t ignore_index, double network_weight,
                                double softcap, double share_offset, int32_t reduction,
                                void* gradient, int64_t gradient_stride, void* mixed, void* network,
                                int32_t threads);

/* result[i][j] = matrix[i][j] · upstream[i · upstream_stride]; result may be the matrix. upstream:
   accum. In place, rows with a factor of exactly 1 are skipped. bfloat16 results below 2⁻¹²⁶ may be
   0. */
int32_t nck_scale_rows(const void* matrix, int64_t rows, int64_t vocab, int64_t row_stride,
                       int32_t dtype, const void* upstream, int64_t upstream_stride, void* result,
                       int64_t result_stride, int32_t threads);

/* Draws one token per row, bit-identical to nanochat/sampling/draw.py.

   random: (rows) 64-bit integers, or NULL: then state is {seed, item of the first row, index} and
   row i takes integer `index` of Philox item `items[i]`, or of `first item + i` if items is NULL,
   in the sampling stream. Temperature 0 takes the largest logit, of equal ones the first. top_k 0
   and top_p 1 keep all tokens. vocab is at most 2^20.

   NCK_LOGITS names the first row that holds NaN or nothing above -inf; the tokens of such rows are
   -1 and -2, and those of the other rows are drawn. */
int32_t nck_sample(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                   int32_t dtype, const uint64_t* random, const int64_t* state,
                   const int64_t* items, double temperature, int64_t top_k, double top_p,
                   int64_t* tokens, int32_t threads);

/* sums: (rows · columns, hidden_size), the sum of the table's rows of each token. tokens: (rows,
   columns), each in [0, vocab). starts: for each token the first column of its row that it looks
   back to, or NULL for 0. */
int32_t nck_embed(const nck_embeddings* embeddings, const void* table, const int64_t* tokens,
                  int64_t rows, int64_t columns, const int64_t* starts, void* sums,
                  int32_t threads);
/* Adds to table_gradient the gradient of the table. gradient: of sums. */
int32_t nck_embed_backward(const nck_embeddings* embeddings, const int64_t* tokens, int64_t rows,
                           int64_t columns, const int64_t* starts, const void* gradient,
                           void* table_gradient, int32_t threads);

/* Dropout. A mask has one bit for each element of a (rows, hidden_size) matrix: ceil(hidden_size /
   8) bytes per row, with column c in bit c % 8 of byte c / 8 of its row. 1 keeps the element and
   multiplies it by `scale`; 0 replaces it by 0.

   Draws the masks of `places` such matrices, one after the other, each a pure function of the
   numbers that are given: byte i of place p is made of block (i, p + 2^16 · rank, microbatch, step)
   of Philox4x32-10 with the key (seed, dropout stream). Of the block's eight 16-bit numbers, the
   low half of each word before the high one, number b sets bit b if it is below `kept`. seed, step,
   microbatch: 32 bits; rank: 16 bits; kept: 1 … 2^16; bytes of a place: at most 2^32. */
int32_t nck_draw_masks(int64_t seed, int64_t step, int64_t microbatch, int64_t rank, int64_t places,
                       int64_t rows, int64_t hidden_size, int64_t kept, uint8_t* masks,
                       int32_t threads);
/* result = onto + the masked x, or the masked x if onto is NULL. onto: accum; result: of the dtype,
   may be x. Computes in accum and rounds once. */
int32_t nck_dropout(const void* x, const void* onto, const uint8_t* mask, int64_t rows,
                    int64_t hidden_size, int32_t dtype, double scale, void* result,
                    int32_t threads);

/* The steps of a transformer block between its matrix products. Matrices are contiguous. The
   residual stream (x, onto and what is marked accum) is of the accumulation dtype, all else of the
   dtype.

   sum = x + branch, or x if branch is NULL (sum is then not written and may be NULL); mask, scale:
   the dropout of the branch, or NULL and a finite number;
   inverse = (mean(sum²) + eps)^−½ of each row, (rows) accum; normed = sum · inverse. sum: accum,
   may be x. */
int32_t nck_rms_norm(const void* x, const void* branch, const uint8_t* mask, double scale,
                     int64_t rows, int64_t hidden_size, int32_t dtype, double eps, void* sum,
                     void* normed, void* inverse, int32_t threads);

/* result = onto + the gradient of x, accum; may be onto. gradient: of normed. stored_result: NULL,
   or where to write the result in the dtype as well, after the dropout of mask and scale unless
   mask is NULL. x: the sum of nck_rms_norm; inverse: its inverse. */
int32_t nck_rms_norm_backward(const void* gradient, const void* x, const void* inverse,
                              const void* onto, int64_t rows, int64_t hidden_size, int32_t dtype,
                              void* result, void* stored_result, const uint8_t* mask, double scale,
                              int32_t threads);

/* result = max(x, 0), squared if `squared`; may be x. */
int32_t nck_activation(const void* x, int64_t count, int32_t dtype, int32_t squared, void* result,
                       int32_t threads);
/* Multiplies gradient by the derivative of nck_activation at x. */
int32_t nck_activation_backward(const void* x, int64_t count, int32_t dtype, int32_t squared,
                                void* gradient, int32_t threads);

/* Causal attention of rows · sequence_length tokens, each with 3 · heads · head_dim elements in
   qkv: queries, keys, values, each head by head. A query or key with the halves a and b is rotated
   by its token's angles to (a·cos + b·sin, b·cos − a·sin), then, if normed, divided by its root
   mean square. softmax(q·k / √head_dim) runs over the columns from starts to the token's own.

   cosines, sines: (angle_rows, head_dim / 2) accum, or NULL for no rotation; positions: the row of
   these tables for each token. starts: the first visible column for each token, not falling along a
   row, or NULL for 0. mixed: (rows · sequence_length, heads · head_dim). */
typedef struct {
  int64_t rows, sequence_length, heads, head_dim; /* the second at most 2^12, the last 2^10 */
  int64_t angle_rows;                             /* read only with a rotation */
  double eps;
  int32_t dtype;
  int32_t normed;
} nck_attention_shape;

int32_t nck_attention(const nck_attention_shape* shape, const void* qkv, const void* cosines,
                      const void* sines, const int64_t* positions, const int64_t* starts,
                      void* mixed, int32_t threads);
/* gradient: of mixed; result: the gradient of qkv. The weights are computed again from qkv. */
int32_t nck_attention_backward(const nck_attention_shape* shape, const void* qkv,
                               const void* cosines, const void* sines, const int64_t* positions,
                               const int64_t* starts, const void* gradient, void* result,
                               int32_t threads);

/* One step of AdamW (Loshchilov and Hutter 2019) on a flat buffer of weights. With g the gradient
   after clipping and t = *count after its increment:

     m += (1 − beta1) · (g − m),   v = beta2 · v + (1 − beta2) · g²
     value = (1 − lr · weight_decay) · value
             − lr / (1 − beta1^t) · m / (√v / √(1 − beta2^t) + eps)

   values, gradients: (size) accum. *norm, accum, is the norm of all gradients before clipping;
   g = gradient · min(1, grad_clip / (norm + 1e-6)), or the gradient if grad_clip is 0. Piece i of
   the weights ends before stops[i] and has the rate rates[i]; m, v: (stops[pieces − 1]) accum. The
   gradients of the pieces are 0 afterwards; those behind them are clipped and the rest is left to
   the caller. If loss + norm is not finite, *stopped becomes 1; if it is 1, values, moments and
   *count stay as they are. loss: one accum value. computed: NULL, or (size) of the dtype: gets the
   values of the pieces from first_computed on, which is 0 … size. */
typedef struct {
  double beta1, beta2; /* in [0, 1) */
  double eps;          /* at least 0 */
  double weight_decay;
  double grad_clip; /* at least 0; 0: no clipping */
} nck_adamw_options;

int32_t nck_adamw(void* values, void* gradients, void* m, void* v, int64_t size, int32_t dtype,
                  const nck_adamw_options* options, const int64_t* stops, const double* rates,
                  int64_t pieces, const void* loss, float* count, float* stopped, void* computed,
                  int64_t first_computed, void* norm, int32_t threads);

/* Opens a decoder of `rows` rows of tokens. The matrices are copied in the order of their use; wte
   and wpe are not copied and must stay valid until the decoder is closed. Keys, values and
   activations are accum. */
int32_t nck_open_decoder(const nck_gpt* model, int64_t rows, nck_decoder** decoder);
void nck_close_decoder(nck_decoder* decoder);

/* Reads (rows, length) tokens, those of each row at the positions first, first + 1 …, and writes
   the logits of the next token, (rows, vocab) accum. first: the number of tokens read so far, or 0,
   which forgets them. first + length is at most block_size. Exception: a single token of a model
   without wpe may follow any number of tokens and replaces the oldest in the cache. The logits of a
   row are bit-identical for any other rows and for any split of its tokens into calls. One call at
   a time. After a call that fails, the decoder continues with the tokens read before it; only a
   call with first 0 and several threads may have forgotten them after NCK_MEMORY. */
int32_t nck_decode(nck_decoder* decoder, const int64_t* tokens, int64_t length, int64_t first,
                   void* logits, int32_t threads);

/* The same for `count` rows of the decoder, each at its own position: rows are their numbers, which
   ascend; tokens is (count, length); firsts has for each of them what nck_decode calls first, or is
   NULL, and each row goes on after the tokens that it has read. Only their logits are written, to
   their places in the (rows of the decoder, vocab) logits. The other rows of the decoder are as
   they were. */
int32_t nck_decode_rows(nck_decoder* decoder, const int64_t* rows, int64_t count,
                        const int64_t* tokens, int64_t length, const int64_t* firsts, void* logits,
                        int32_t threads);

/* Counts the n-grams of 1 … order tokens (order is 1 … 16) of documents, for interpolated modified
   Kneser–Ney smoothing (Chen and Goodman 1999).

   tokens: the documents end to end, each token in [1, vocab); BOS is token 0. offsets: (documents +
   1): document d is tokens[offsets[d]] … tokens[offsets[d + 1] − 1]. Tokens and documents together
   are at most 2^27, vocab at most 2^20. The targets of a document of n tokens are these tokens and
   BOS, its end. The context of a target is the tokens before it in its document, after BOS.

   With c(h w) the count of target w after context h, and h' the context h without its oldest token:

     p(w | h) = (c(h w) − D(c(h w)) + Σ_v D(c(h v)) · p(w | h')) / Σ_v c(h v)

   p(w | h) = p(w | h') if the text lacks h. For the empty context, p(w | h') = 1 / vocab. For
   n-grams of `order` tokens, c is the number of occurrences. For shorter n-grams it is the number
   of distinct tokens before them, or of occurrences if they begin with BOS. With t_k the number of
   n-grams of the same length with c = k, and y = t_1 / (t_1 + 2 t_2): D(k) = k − (k + 1) · y ·
   t_(k+1) / t_k for k = 1, 2, and 3 or more. If one of t_1 … t_4 is 0, or if a D(k) is not in
   (0, k], the three are 0.5, 1 and 1.5.

   Counts are integers; probabilities are computed in double when they are looked up. The result is
   independent of `threads`. */
int32_t nck_count_ngrams(const int64_t* tokens, const int64_t* offsets, int64_t documents,
                         int64_t vocab, int32_t order, nck_ngrams** ngrams, int32_t threads);
/* Counts a text of up to 2^31 targets and drops the n-grams of at least cut_length tokens (2 … 17)
   that occur less than cut_count times (at least 2). What was dropped counts in the discounts,
   which come from the counts of all n-grams, and in the sums: with c = 0 for a dropped n-gram of
   the target,

     p(w | h) = (c(h w) − D(c(h w)) + (1 − Σ_v kept (c(h v) − D(c(h v))) / s) · s · p(w | h')) / s

   where s is the sum of the counts of all followers, and p(w | h) = p(w | h') if none was kept.

   stream: (targets + 1) unsigned integers of token_bytes (1, 2, 4 or 8): tokens in [1, vocab), and
   BOS before each document and at the end. The text is read in place. Beyond it and the counts,
   which are copied once, the call takes at most 40 bytes for each of `chunk` targets, and 8 · order
   · vocab bytes. The result is independent of `chunk` and `threads`; the text is read once for each
   chunk. */
int32_t nck_count_long_text(const void* stream, int32_t token_bytes, int64_t targets, int64_t vocab,
                            int32_t order, int32_t cut_length, int64_t cut_count, int64_t chunk,
                            nck_ngrams** ngrams, int32_t threads);
void nck_free_ngrams(nck_ngrams* ngrams);
/* The bytes of memory that the counts take. */
int64_t nck_ngram_bytes(const nck_ngrams* ngrams);

/* The arrays of counts, which live as long as these. */
int32_t nck_ngram_arrays_of(const nck_ngrams* ngrams, nck_ngram_arrays* arrays);
/* Opens counts that read these arrays in place: the memory must outlive them. Refuses arrays with
   which a lookup could read outside of them. */
int32_t nck_open_ngrams(const nck_ngram_arrays* arrays, nck_ngrams** ngrams);

/* Opens counts that grow with a text as it is read. The frozen counts must outlive them and are not
   changed. begins: whether the text begins with a document; if not, the tokens before it are
   unknown, and the n-grams that they belong to are not counted.

   After each target, its n-grams are added to those of the counted text, and the counts, discounts
   and probabilities p_joint are as if both texts had been counted at once, with a last document
   that has no end yet. Of the rates, 0 leaves out what it teaches, and read_order 0 leaves out
   p_read.

   discount_rate: a discount D(k) becomes k · r·e^s / (1 − r + r·e^s) with r = D(k) / k, limited to
   [0.02, 0.98]. There is one s for each length of the context, class of its counts, and k. AdaGrad
   raises log p of each target: with g the derivative of log p by s, G = 0.01 + the sum of all g²,
   s grows by rate · g / √G. The classes are told by the distinct followers f (1, 2, 4, 8, 16, more)
   and by the sum of the counts (f, below 2f, below 4f, below 16f, more).

   read_order: p_read is that of counts of the read text alone, of this order. The counts predict
   p_counts = (p_joint · (1 − a) + e^b · a · p_read) / (1 − a + e^b · a) with a = 1 / (1 + e⁴). b is
   a sum of three numbers, which depend on the context that is known to the counts of the read text
   and of both texts (tokens, and distinct followers up to 4) and on the last token modulo 1024.
   They begin with 0 and are learned as s is, with gate_rate. */
int32_t nck_open_adaptive(const nck_ngrams* ngrams, int32_t order, int32_t read_order,
                          int32_t begins, double discount_rate, double gate_rate,
                          nck_adaptive** adaptive);
/* Returns counts that have read the same text and go on alone. */
int32_t nck_copy_adaptive(const nck_adaptive* adaptive, nck_adaptive** copy);
void nck_free_adaptive(nck_adaptive* adaptive);
/* The bytes of memory that they take, without the frozen counts. */
int64_t nck_adaptive_bytes(const nck_adaptive* adaptive);
/* Reads targets; BOS ends a document. losses: (count) −log p(target) by what was read before it.

   network: NULL, or for each target its share of a network's softmax and the share g of the counts,
   (count, 2). Then p = (share + e^c · g · p_counts) / (1 − g + e^c · g), with c as b above.
   counted: NULL, or (count) −log p_counts(target). */
int32_t nck_adaptive_read(nck_adaptive* adaptive, const int64_t* tokens, int64_t count,
                          const double* network, double* losses, double* counted);
/* The probability of each token after the text read so far, (vocab). network: NULL, or the shares
   of all tokens and of the counts, (vocab + 1). */
int32_t nck_adaptive_distribution(const nck_adaptive* adaptive, const double* network,
                                  double* probabilities);

/* losses: (most_order − least_order + 1, targets): −log p of each target of the documents, the ends
   included, for each of these orders; 1 <= least_order <= most_order <= the order counted. */
int32_t nck_ngram_losses(const nck_ngrams* ngrams, const int64_t* tokens, const int64_t* offsets,
                         int64_t documents, int32_t least_order, int32_t most_order, double* losses,
                         int32_t threads);

/* probabilities: (contexts, vocab), of each token after each context, by the model of `order`.
   Context c is tokens[offsets[c]] … tokens[offsets[c + 1] − 1], the newest token last. Tokens
   before the last BOS and before the last order − 1 tokens do not count. */
int32_t nck_ngram_distributions(const nck_ngrams* ngrams, const int64_t* tokens,
                                const int64_t* offsets, int64_t contexts, int32_t order,
                                double* probabilities, int32_t threads);

/* log_probabilities: (rows, vocab), log p of each token as the next one of each text. */
int32_t nck_mixed_logits(const nck_mixture* mixture, double* log_probabilities, int32_t threads);
/* Draws what nck_sample draws from nck_mixed_logits. chosen: (count) the rows to draw for, or NULL
   for the first `count`; random, tokens: (count). */
int32_t nck_sample_mixture(const nck_mixture* mixture, const int64_t* chosen, int64_t count,
                           const uint64_t* random, double temperature, int64_t top_k, double top_p,
                           int64_t* tokens, int32_t threads);

/* Draws up to `steps` tokens of each of `count` rows of a decoder. In each step, the rows read
   their newest token, as by nck_decode_rows without firsts, and draw the next one, as by
   nck_sample_mixture, or by nck_sample if mixture is NULL. The step that draws 0, or a token of at
   least first_end, is the last one.

   newest: (count) what they read first. logits: (rows of the decoder, vocab) accum, dtype; those of
   the mixture. contexts: those of the mixture, of which each row drops its oldest token for the one
   that it reads; NULL without one. random: (steps, count). tokens: (steps, count), of which *done
   steps are drawn. threads: of the decoder. */
int32_t nck_write_rows(nck_decoder* decoder, const int64_t* rows, int64_t count,
                       const int64_t* newest, void* logits, int64_t vocab, int32_t dtype,
                       const nck_mixture* mixture, int64_t* contexts, const uint64_t* random,
                       double temperature, int64_t top_k, double top_p, int64_t first_end,
                       int64_t steps, int64_t* tokens, int64_t* done, int32_t threads,
                       int32_t draw_threads);

/* Memory for large results: at least `bytes`, aligned to 64 bytes, on huge pages where the system
   has them. Buffers that are given back are kept for later calls, at most NCK_BUFFERS_KEPT of them;
   the system may take their memory as soon as it runs short. */
enum { NCK_BUFFERS_KEPT = 4 };
int32_t nck_take_buffer(int64_t bytes, void** buffer);
void nck_give_buffer(void* buffer);
/* The bytes of the buffers that are kept now. */
int64_t nck_kept_bytes(void);
/* Returns all kept buffers to the system. */
void nck_drop_buffers(void);

/* ── libnck_cuda: an NVIDIA GPU ──────────────────────────────────────────────────────────────────
 */

/* As nck_cross_entropy, with every pointer on the device except `loss`. workspace: the bytes that
   nck_cuda_workspace returns, aligned to 16; free again once the stream has passed the call. A
   target that is neither a token nor ignore_index makes its row's loss, lse and gradient NaN. */
int64_t nck_cuda_workspace(int64_t rows, int64_t vocab, int32_t dtype);
int32_t nck_cuda_cross_entropy(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                               int32_t dtype, const int64_t* targets, const void* class_weights,
                               const void* token_weights, const nck_loss* loss,
                               const void* upstream, int64_t upstream_stride, void* gradient,
                               int64_t gradient_stride, void* losses, void* log_sums, void* correct,
                               void* workspace, void* stream);

/* *weight, one accum value on the device: Σ w · c[t] as in nck_target_weight. */
int32_t nck_cuda_target_weight(const int64_t* targets, int64_t rows, int64_t vocab, int32_t dtype,
                               const void* class_weights, const void* token_weights,
                               int64_t ignore_index, void* weight, void* stream);

int32_t nck_cuda_scale_rows(const void* matrix, int64_t rows, int64_t vocab, int64_t row_stride,
                            int32_t dtype, const void* upstream, int64_t upstream_stride,
                            void* result, int64_t result_stride, void* stream);

/* As nck_sample, with every pointer on the device, state too, so a captured graph can advance it.
   A row that holds NaN or nothing above -inf gets the token -1 or -2. */
int32_t nck_cuda_sample(const void* logits, int64_t rows, int64_t vocab, int64_t row_stride,
                        int32_t dtype, const uint64_t* random, const int64_t* state,
                        const int64_t* items, double temperature, int64_t top_k, double top_p,
                        int64_t* tokens, void* workspace, void* stream);

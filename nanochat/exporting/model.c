/* The network above in C99: one token at a time, with the keys and values of the tokens before.

   cc -O2 model.c -o model -lm
   ./model [PROMPT] [TEMPERATURE] [SEED]     writes one text
   ./model --logits < IDS                    reads a line of token ids per row, writes the logits
                                             after each one */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_DIM (N_EMBD / N_HEAD)
#define HIDDEN (4 * N_EMBD)
#define BOS 0

static float keys[N_LAYER + 1][BLOCK_SIZE][N_EMBD], values[N_LAYER + 1][BLOCK_SIZE][N_EMBD];
static float logits[VOCAB_SIZE];

static void rmsnorm(float *x, int n) {
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / sqrtf(sum / (float)n + 1e-5f);
  for (int i = 0; i < n; ++i) x[i] *= scale;
}

static void product(float *y, const float *weight, const float *x, int rows, int columns) {
  for (int r = 0; r < rows; ++r) {
    float sum = 0.0f;
    for (int c = 0; c < columns; ++c) sum += weight[(size_t)r * columns + c] * x[c];
    y[r] = sum;
  }
}

/* Turns each pair (x[i], x[i + half]) by the angle position * 10000^(-i / half), if the model has
   rotary positions, and applies the norm of queries and keys, head by head. */
static void rotate_and_norm(float *x, int position) {
  for (int h = 0; h < N_HEAD; ++h, x += HEAD_DIM) {
    for (int i = 0; ROPE && i < HEAD_DIM / 2; ++i) {
      const double angle = position * pow(10000.0, -(double)i / (HEAD_DIM / 2));
      const float c = (float)cos(angle), s = (float)sin(angle);
      const float first = x[i], second = x[i + HEAD_DIM / 2];
      x[i] = first * c + second * s;
      x[i + HEAD_DIM / 2] = second * c - first * s;
    }
    if (QK_NORM) rmsnorm(x, HEAD_DIM);
  }
}

static void attend(float *x, int layer, int position) {
  static float weights[BLOCK_SIZE]; /* a long context does not fit on the stack */
  float y[N_EMBD], q[N_EMBD], mixed[N_EMBD];
  memcpy(y, x, sizeof y);
  rmsnorm(y, N_EMBD);
  float *k = keys[layer][position], *v = values[layer][position];
  product(q, attn_wq[layer], y, N_EMBD, N_EMBD);
  product(k, attn_wk[layer], y, N_EMBD, N_EMBD);
  product(v, attn_wv[layer], y, N_EMBD, N_EMBD);
  rotate_and_norm(q, position);
  rotate_and_norm(k, position);
  for (int h = 0; h < N_HEAD; ++h) {
    const int at = h * HEAD_DIM;
    float largest = -INFINITY, sum = 0.0f;
    for (int t = 0; t <= position; ++t) {
      float score = 0.0f;
      for (int i = at; i < at + HEAD_DIM; ++i) score += q[i] * keys[layer][t][i];
      weights[t] = score / sqrtf((float)HEAD_DIM);
      if (weights[t] > largest) largest = weights[t];
    }
    for (int t = 0; t <= position; ++t) sum += weights[t] = expf(weights[t] - largest);
    for (int i = at; i < at + HEAD_DIM; ++i) {
      mixed[i] = 0.0f;
      for (int t = 0; t <= position; ++t) mixed[i] += weights[t] / sum * values[layer][t][i];
    }
  }
  product(y, attn_wo[layer], mixed, N_EMBD, N_EMBD);
  for (int i = 0; i < N_EMBD; ++i) x[i] += y[i];
}

static void mlp(float *x, int layer) {
  float y[N_EMBD], hidden[HIDDEN];
  memcpy(y, x, sizeof y);
  rmsnorm(y, N_EMBD);
  product(hidden, mlp_fc1[layer], y, HIDDEN, N_EMBD);
  for (int i = 0; i < HIDDEN; ++i) {
    hidden[i] = hidden[i] > 0.0f ? hidden[i] : 0.0f;
    if (SQUARED) hidden[i] *= hidden[i];
  }
  product(y, mlp_fc2[layer], hidden, N_EMBD, HIDDEN);
  for (int i = 0; i < N_EMBD; ++i) x[i] += y[i];
}

/* Reads a token at a position and computes the logits of the next one. */
static void read_token(int token, int position) {
  float x[N_EMBD];
  memcpy(x, wte + (size_t)token * N_EMBD, sizeof x);
  for (int i = 0; LEARNED && i < N_EMBD; ++i) x[i] += wpe[(size_t)position * N_EMBD + i];
  if (INPUT_NORM) rmsnorm(x, N_EMBD);
  for (int layer = 0; layer < N_LAYER; ++layer) {
    attend(x, layer, position);
    mlp(x, layer);
  }
  if (OUTPUT_NORM) rmsnorm(x, N_EMBD);
  product(logits, head, x, VOCAB_SIZE, N_EMBD);
  for (int i = 0; SOFTCAP > 0.0f && i < VOCAB_SIZE; ++i)
    logits[i] = SOFTCAP * tanhf(logits[i] / SOFTCAP);
}

/* Draws a token: the first whose cumulative probability exceeds a uniform number. */
static int draw(float temperature, uint64_t *state) {
  int best = 0;
  for (int i = 1; i < VOCAB_SIZE; ++i)
    if (logits[i] > logits[best]) best = i;
  if (!(temperature > 0.0f)) return best;
  double sum = 0.0, below = 0.0;
  for (int i = 0; i < VOCAB_SIZE; ++i) sum += exp((logits[i] - logits[best]) / temperature);
  /* SplitMix64 (Steele, Lea & Flood 2014) */
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  const double uniform = (double)((z ^ (z >> 31)) >> 11) * 0x1p-53 * sum;
  for (int i = 0; i < VOCAB_SIZE; ++i)
    if ((below += exp((logits[i] - logits[best]) / temperature)) > uniform) return i;
  return best;
}

/* The id of the token that a text begins with, or -1. Tokens are characters or bytes. */
static int token_of(const char *text) {
  for (int id = 1; id < VOCAB_SIZE; ++id)
    if (token_bytes[id] > 0 && strncmp(text, token_text[id], token_bytes[id]) == 0) return id;
  return -1;
}

static int print_logits(void) {
  static char line[16 * BLOCK_SIZE + 2];
  while (fgets(line, sizeof line, stdin)) {
    int position = 0;
    for (char *word = strtok(line, " \n"); word && position < BLOCK_SIZE; word = strtok(NULL, " \n")) {
      const long token = strtol(word, NULL, 10);
      if (token < 0 || token >= VOCAB_SIZE) return 1;
      read_token((int)token, position++);
      for (int i = 0; i < VOCAB_SIZE; ++i) printf("%.9g ", logits[i]);
      printf("\n");
    }
  }
  return 0;
}

int main(int count, char **words) {
  if (count > 1 && strcmp(words[1], "--logits") == 0) return print_logits();
  const char *prompt = count > 1 ? words[1] : "";
  const float temperature = count > 2 ? strtof(words[2], NULL) : 0.8f;
  uint64_t state = count > 3 ? strtoull(words[3], NULL, 10) : 1;
  static int tokens[BLOCK_SIZE];
  int length = 0;
  if (OPENS_WITH_BOS || !*prompt) tokens[length++] = OPENS_WITH_BOS ? BOS : FIRST_TOKEN;
  for (const char *at = prompt; *at; at += token_bytes[tokens[length - 1]]) {
    const int token = token_of(at);
    if (token < 0 || length + 1 >= BLOCK_SIZE) {
      fprintf(stderr, token < 0 ? "error: the prompt has a character that the model does not know\n"
                                : "error: the prompt is longer than the context\n");
      return 2;
    }
    tokens[length++] = token;
  }
  for (int t = 0; t < length; ++t) read_token(tokens[t], t);
  printf("%s", prompt);
  for (int written = 0; written < 200; ++written) {
    const int token = draw(temperature, &state);
    if (token_bytes[token] == 0) break; /* BOS, or a special token of conversations */
    fwrite(token_text[token], 1, token_bytes[token], stdout);
    if (length == BLOCK_SIZE) { /* the window slides: the tokens in it get new positions */
      memmove(tokens, tokens + 1, (BLOCK_SIZE - 1) * sizeof tokens[0]);
      tokens[BLOCK_SIZE - 1] = token;
      for (int t = 0; t < BLOCK_SIZE; ++t) read_token(tokens[t], t);
    } else {
      tokens[length] = token;
      read_token(token, length++);
    }
  }
  printf("\n");
  return 0;
}

/* Unmodified eemicrogpt that writes its weights to weights.bin when it frees them at the end, and
 * adds the first argument to its constant seed. Its main allocates the model and passes it to no
 * other function, so the first block that main frees is the model. */
#include <stdio.h>
#include <stdlib.h>

static void write_and_free(void* block);

#define main eemicrogpt_main
#define free write_and_free
#include "eemicrogpt.c"
#undef free
#undef main

static void write_and_free(void* block) {
  static int count = 0;
  if (count++ == 0) {
    FILE* file = fopen("weights.bin", "wb");
    if (!file || fwrite(block, sizeof(Model), 1, file) != 1 || fclose(file) != 0) {
      perror("weights.bin");
      exit(1);
    }
  }
  free(block);
}

int main(int argc, char** argv) {
  if (argc > 1) rng_state += strtoull(argv[1], NULL, 10);
  return eemicrogpt_main(argc, argv);
}

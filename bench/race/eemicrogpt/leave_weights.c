/* eemicrogpt as it is, its weights written to weights.bin when it gives them back at the end, and
 * its constant seed moved by the first argument. Its main allocates the model and hands it to no
 * one else, so the first block that main frees is the model. */
#include <stdio.h>
#include <stdlib.h>

static void give_back(void* block);

#define main eemicrogpt_main
#define free give_back
#include "eemicrogpt.c"
#undef free
#undef main

static void give_back(void* block) {
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

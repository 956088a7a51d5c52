// The functions of all kernels of one instruction set. Compiled once per set.
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels::NCLAB_SIMD {

extern const CrossEntropyTable cross_entropy_table;
extern const ScaleRowsTable scale_rows_table;
extern const SampleTable sample_table;
extern const NormTable norm_table;
extern const ActivationTable activation_table;
extern const EmbedTable embed_table;
extern const AttentionTable attention_table;
extern const DecodeTable decode_table;
extern const DropoutTable dropout_table;
extern const MixtureTable mixture_table;
extern const AdamWTable adamw_table;

extern const Tables kernel_tables;
const Tables kernel_tables = {
    &cross_entropy_table, &scale_rows_table, &sample_table,    &norm_table,
    &activation_table,    &embed_table,      &attention_table, &decode_table,
    &dropout_table,       &mixture_table,    &adamw_table,
};

}  // namespace nanochat::kernels::NCLAB_SIMD

// The row kernels of one instruction set, and which set's run.
#ifndef NANOCHAT_KERNELS_CPU_TABLES_HPP_
#define NANOCHAT_KERNELS_CPU_TABLES_HPP_

namespace nanochat::kernels {

struct ActivationTable;
struct AttentionTable;
struct CrossEntropyTable;
struct DecodeTable;
struct EmbedTable;
struct NormTable;
struct SampleTable;
struct ScaleRowsTable;

struct Tables {
  const CrossEntropyTable* cross_entropy;
  const ScaleRowsTable* scale_rows;
  const SampleTable* sample;
  const NormTable* norm;
  const ActivationTable* activation;
  const EmbedTable* embed;
  const AttentionTable* attention;
  const DecodeTable* decode;
};

// Of simd::chosen_instruction_set(). Throws std::invalid_argument as it does.
const Tables& tables();
// Null where this build or processor has no such set.
const Tables* tables_named(const char* name) noexcept;
// The chosen set's name, or "none" where NCLAB_SIMD names none that runs.
const char* tables_name() noexcept;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_TABLES_HPP_

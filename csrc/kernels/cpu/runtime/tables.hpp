// The functions of all kernels of one instruction set, and the choice of the set.
#ifndef NANOCHAT_KERNELS_CPU_TABLES_HPP_
#define NANOCHAT_KERNELS_CPU_TABLES_HPP_

namespace nanochat::kernels {

struct ActivationTable;
struct AdamWTable;
struct AttentionTable;
struct CrossEntropyTable;
struct DecodeTable;
struct DropoutTable;
struct EmbedTable;
struct MixtureTable;
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
  const DropoutTable* dropout;
  const MixtureTable* mixture;
  const AdamWTable* adamw;
};

// Returns the functions of simd::chosen_instruction_set(). Throws std::invalid_argument like that
// function.
const Tables& tables();
// Returns null if this build or processor does not have the set.
const Tables* tables_named(const char* name) noexcept;
// Returns the name of the chosen set, or "none" if NCLAB_SIMD names a set that does not run.
const char* tables_name() noexcept;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_TABLES_HPP_

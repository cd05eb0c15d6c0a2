//! Whether the checks would find faults: each of these is planted in a copy of the kernels, which is compiled and checked. A fault that
//! the checks do not find fails the test.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod checks;
mod reference;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use checks::Check;
use cuda_kernels::emulation::Emulator;

/// A planted fault.
struct Mutant {
    what: &'static str,
    /// The file that is changed.
    file: &'static str,
    /// This text, which must be there once, ...
    from: &'static str,
    /// ... becomes this.
    to: &'static str,
    /// The kernels that are compiled.
    kernels: &'static [&'static str],
    check: Check,
}

const ATTENTION: &[&str] = &["attention_forward", "attention_backward_query", "attention_backward_key"];

const MUTANTS: &[Mutant] = &[
    // Missing barriers.
    Mutant {
        what: "a sum over a block is begun while the last one is read",
        file: "reduce.cuh",
        from: "    __syncthreads();\n    if (threadIdx.x % 32 == 0)",
        to: "    if (threadIdx.x % 32 == 0)",
        kernels: &["residual_norm"],
        check: checks::residual_norm::residual_norm,
    },
    Mutant {
        what: "a sum over a block is read before all warps have added to it",
        file: "reduce.cuh",
        from: "of_warp[threadIdx.x / 32] = value;\n    __syncthreads();",
        to: "of_warp[threadIdx.x / 32] = value;",
        kernels: &["residual_norm"],
        check: checks::residual_norm::residual_norm,
    },
    Mutant {
        what: "a tile of keys is replaced while it is read",
        file: "attention_forward.cu",
        from: "        // The tile before may still be read.\n        __syncthreads();\n",
        to: "",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "a tile of keys is read before it is there",
        file: "attention_forward.cu",
        from: "head.values(tile));\n        __syncthreads();",
        to: "head.values(tile));",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "a tile of queries is replaced while it is read",
        file: "attention_backward_key.cu",
        from: "        // The tile before may still be read.\n        __syncthreads();\n",
        to: "",
        kernels: ATTENTION,
        check: checks::attention::attention_backward,
    },
    Mutant {
        what: "a warp's gradients are written where another warp still writes padding",
        file: "attention_backward_key.cu",
        from: "all warps have written them.\n    __syncthreads();",
        to: "all warps have written them.\n    __syncwarp();",
        kernels: ATTENTION,
        check: checks::attention::attention_backward,
    },
    Mutant {
        what: "the means of a context are read before they are there",
        file: "attention_backward_query.cu",
        from: "    context_means<T, D>(head, means, dcontexts, first);\n    __syncwarp();",
        to: "    context_means<T, D>(head, means, dcontexts, first);",
        kernels: ATTENTION,
        check: checks::attention::attention_backward,
    },
    Mutant {
        what: "a warp's results are copied before all lanes have written them",
        file: "warp_tile.cuh",
        from: "from_float<T>(c[n][i]);\n    __syncwarp();",
        to: "from_float<T>(c[n][i]);",
        kernels: &["int8_product"],
        check: checks::int8::int8,
    },
    Mutant {
        what: "a target's logit is read after its gradient was written",
        file: "cross_entropy.cu",
        from: "    __syncthreads();\n    if (threadIdx.x == 0) {",
        to: "    if (threadIdx.x == 0) {",
        kernels: &["cross_entropy"],
        check: checks::cross_entropy::cross_entropy,
    },
    Mutant {
        what: "groups of lanes are joined before all of them are done",
        file: "decoding_attention.cu",
        from: "    __syncthreads();\n    if (threadIdx.x >= a.head_dim) return;",
        to: "    if (threadIdx.x >= a.head_dim) return;",
        kernels: &["decoding_attention"],
        check: checks::decoding::decoding_attention,
    },
    Mutant {
        what: "the warps of an adapter's product are added before all of them are done",
        file: "lora.cu",
        from: "= sums[n][i];\n    __syncthreads();",
        to: "= sums[n][i];",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    Mutant {
        what: "blocks that share rows add to the same results",
        file: "lora.cu",
        from: "uint32_t column = blockIdx.y * STEP + warp * COLUMNS;",
        to: "uint32_t column = warp * COLUMNS;",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    Mutant {
        what: "a row is copied from another's place",
        file: "row_copy.cu",
        from: "a.from[blockIdx.y])",
        to: "a.from[blockIdx.y / 2])",
        kernels: &["row_copy"],
        check: checks::row_copy::row_copy,
    },
    Mutant {
        what: "a warp's sums are replaced while others read them",
        file: "lora.cu",
        from: "    // Other warps may still read this one's sums.\n    __syncthreads();\n",
        to: "",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    Mutant {
        what: "a warp's sums are written where lanes still read a factor",
        file: "lora.cu",
        from: "own sums take.\n    __syncwarp();",
        to: "own sums take.",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    Mutant {
        what: "a barrier that half of the threads do not reach",
        file: "int8_product.cu",
        from: "        });\n        __syncthreads();",
        to: "        });\n        if (threadIdx.x < 64) __syncthreads();",
        kernels: &["int8_product"],
        check: checks::int8::int8,
    },
    // Unwritten elements, and too many.
    Mutant {
        what: "the last row is not written",
        file: "dropout.cu",
        from: "if (row >= a.rows) return;",
        to: "if (row + 1 >= a.rows) return;",
        kernels: &["dropout"],
        check: checks::dropout::dropout,
    },
    Mutant {
        what: "the last feature of a row is not written",
        file: "residual_norm.cu",
        from: "        if (column >= a.features) break;\n        float weight[N], bias[N];",
        to: "        if (column + N >= a.features) break;\n        float weight[N], bias[N];",
        kernels: &["residual_norm"],
        check: checks::residual_norm::residual_norm,
    },
    Mutant {
        what: "a row without a target keeps its logits in place of a gradient of 0",
        file: "cross_entropy.cu",
        from: "            store<N>(logits + column, zeros);",
        to: "            (void)zeros;",
        kernels: &["cross_entropy"],
        check: checks::cross_entropy::cross_entropy,
    },
    Mutant {
        what: "elements after the last are changed",
        file: "optimizer.cu",
        from: "body(i, min(end - i, 4u));",
        to: "body(i, 4u);",
        kernels: &["optimizer"],
        check: checks::optimizer::optimizer,
    },
    Mutant {
        what: "rows after the last are written",
        file: "warp_tile.cuh",
        from: "        if (row >= rows) break;\n        const T* from",
        to: "        if (row > rows) break;\n        const T* from",
        kernels: &["int8_product"],
        check: checks::int8::int8,
    },
    Mutant {
        what: "16 bytes are read where they are not aligned",
        file: "warp_tile.cuh",
        from: "if (row < from.rows && column + N <= from.columns && from.vectors) {\n            CHECK_ALIGNED(at, 16);\n            values =",
        to: "if (row < from.rows && column + N <= from.columns) {\n            CHECK_ALIGNED(at, 16);\n            values =",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "the shared tiles of an adapter's gradients have the alignment of their elements",
        file: "kernel.cuh",
        from: "__align__(16) type name",
        to: "type name",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    Mutant {
        what: "the shared tiles of an int8 product have the alignment of their elements",
        file: "kernel.cuh",
        from: "__align__(16) type name",
        to: "type name",
        kernels: &["int8_product"],
        check: checks::int8::int8,
    },
    // Off by one tile or element.
    Mutant {
        what: "the last tile of keys is left out",
        file: "attention_forward.cu",
        from: "for (uint32_t tile = 0; tile < end; tile += TILE) {",
        to: "for (uint32_t tile = 0; tile + TILE < end || tile == 0; tile += TILE) {",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "the first tile of queries that sees a key is left out",
        file: "attention_backward_key.cu",
        from: "- 1) <= first) continue;",
        to: "- 1) <= first + 1) continue;",
        kernels: ATTENTION,
        check: checks::attention::attention_backward,
    },
    Mutant {
        what: "the last part of an adapter's gradient is not added",
        file: "lora_gradient.cu",
        from: "part < a.parts; ++part",
        to: "part + 1 < a.parts; ++part",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    Mutant {
        what: "logits that are not of the vocabulary are counted",
        file: "cross_entropy.cu",
        from: "if (column + i < a.vocabulary) own.sum += expf(z[i] - own.largest), total += z[i];",
        to: "own.sum += expf(z[i] - own.largest), total += z[i];",
        kernels: &["cross_entropy"],
        check: checks::cross_entropy::cross_entropy,
    },
    Mutant {
        what: "the bias of a target's logit is left out",
        file: "cross_entropy.cu",
        from: " + (a.bias ? a.bias[target] : 0.0f);",
        to: ";",
        kernels: &["cross_entropy"],
        check: checks::cross_entropy::cross_entropy,
    },
    Mutant {
        what: "the last term of a row's chunks is left out of the norm",
        file: "optimizer.cu",
        from: "chunk < end; ++chunk) sum",
        to: "chunk + 1 < end; ++chunk) sum",
        kernels: &["optimizer"],
        check: checks::optimizer::optimizer,
    },
    // Wrong masks.
    Mutant {
        what: "a query does not see itself",
        file: "attention.cuh",
        from: "max(a.first_query + query + 1, a.prefix)",
        to: "max(max(a.first_query + query, 1u), a.prefix)",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "padding is seen",
        file: "attention.cuh",
        from: "a.prefix), real_keys);",
        to: "a.prefix), a.keys);",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "the lengths are those of another sequence",
        file: "attention.cuh",
        from: "a.key_lengths[batch]",
        to: "a.key_lengths[0]",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "a query sees the token after itself",
        file: "attention.cuh",
        from: "max(a.first_query + query + 1, a.prefix)",
        to: "max(a.first_query + query + 2, a.prefix)",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "tokens of the prefix do not see each other",
        file: "attention.cuh",
        from: "max(a.first_query + query + 1, a.prefix)",
        to: "max(a.first_query + query + 1, 0u)",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "a masked key has a gradient",
        file: "attention_backward_key.cu",
        from: "query < a.queries && key < head.visible(query)",
        to: "query < a.queries && key <= head.visible(query)",
        kernels: ATTENTION,
        check: checks::attention::attention_backward,
    },
    Mutant {
        what: "a new token of decoding does not see itself",
        file: "decoding_attention.cu",
        from: "+ token + 1 - a.new_tokens",
        to: "+ token - a.new_tokens",
        kernels: &["decoding_attention"],
        check: checks::decoding::decoding_attention,
    },
    Mutant {
        what: "a new token takes the slot before its own",
        file: "cache_write.cu",
        from: "- a.new_tokens + token]",
        to: "- a.new_tokens + token - 1]",
        kernels: &["cache_write"],
        check: checks::decoding::cache_write,
    },
    Mutant {
        what: "a row of a cache's table is as long as its sequence",
        file: "cache_write.cu",
        from: "size_t(row) * a.most_tokens +",
        to: "size_t(row) * a.lengths[row] +",
        kernels: &["cache_write"],
        check: checks::decoding::cache_write,
    },
    Mutant {
        what: "values are written as keys",
        file: "cache_write.cu",
        from: "blockIdx.y ? a.values : a.keys",
        to: "a.keys",
        kernels: &["cache_write"],
        check: checks::decoding::cache_write,
    },
    Mutant {
        what: "a wide key is written in part",
        file: "cache_write.cu",
        from: "for (uint32_t column = threadIdx.x * N; column < a.width; column += THREADS * N)",
        to: "if (const uint32_t column = threadIdx.x * N; column < a.width)",
        kernels: &["cache_write"],
        check: checks::decoding::cache_write,
    },
    Mutant {
        what: "a token of decoding sees the slot after its own",
        file: "decoding_attention.cu",
        from: "a.lengths[row] + token + 1",
        to: "a.lengths[row] + token + 2",
        kernels: &["decoding_attention"],
        check: checks::decoding::decoding_attention,
    },
    Mutant {
        what: "a sequence of decoding reads the slots of another",
        file: "decoding_attention.cu",
        from: "a.slots[size_t(row) * a.most_tokens",
        to: "a.slots[size_t(row + 1) % 2 * a.most_tokens",
        kernels: &["decoding_attention"],
        check: checks::decoding::decoding_attention,
    },
    Mutant {
        what: "all elements of a vector share a fate",
        file: "dropout.cu",
        from: "a.mask.factor(key, column + i)",
        to: "a.mask.factor(key, column)",
        kernels: &["dropout"],
        check: checks::dropout::dropout,
    },
    Mutant {
        what: "the backward pass of attention drops others than the forward pass",
        file: "attention_backward_query.cu",
        from: "a.mask.factor(key[i / 2], column)",
        to: "a.mask.factor(key[i / 2], column + 1)",
        kernels: ATTENTION,
        check: checks::attention::attention_backward,
    },
    Mutant {
        what: "the input of an adapter is not dropped out",
        file: "lora.cu",
        from: "return BACKWARD ? x : x * a.mask",
        to: "return true ? x : x * a.mask",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    // Wrong arithmetic.
    Mutant {
        what: "the bias of a column is another's",
        file: "lora.cu",
        from: "y + a.bias[at_column + i]",
        to: "y + a.bias[at_column]",
        kernels: &["lora", "lora_gradient"],
        check: checks::lora::lora,
    },
    Mutant {
        what: "the last gradients of a tensor are not scaled",
        file: "optimizer.cu",
        from: "for (uint32_t j = i; j < i + count; ++j) t.parameter[j] = f(",
        to: "for (uint32_t j = i; j + 1 < i + count; ++j) t.parameter[j] = f(",
        kernels: &["optimizer"],
        check: checks::optimizer::scaled_gradients,
    },
    Mutant {
        what: "sums are not corrected for a larger score",
        file: "attention_forward.cu",
        from: "            sum[i] *= correction;\n",
        to: "",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "a factor of tensor cores is transposed",
        file: "warp_tile.cuh",
        from: "load_matrices<true>(b + (lane % 16)",
        to: "load_matrices<false>(b + (lane % 16)",
        kernels: &["attention_forward"],
        check: checks::attention::attention_forward,
    },
    Mutant {
        what: "0 and -0 are different keys",
        file: "top_candidates.cu",
        from: "value == 0.0f ? 0 : __float_as_uint(value)",
        to: "__float_as_uint(value)",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "negative logits have their order reversed",
        file: "top_candidates.cu",
        from: "bits >> 31 ? ~bits : bits | 1u << 31",
        to: "bits ^ 1u << 31",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "equal logits have equal keys",
        file: "top_candidates.cu",
        from: "for (int bit = 63; bit >= 0; --bit)",
        to: "for (int bit = 63; bit >= 32; --bit)",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "sums over threads are read before they are written",
        file: "top_candidates.cu",
        from: "        __syncthreads();\n        const uint32_t other",
        to: "        const uint32_t other",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "sums over threads are written before they are read",
        file: "top_candidates.cu",
        from: "        __syncthreads();\n        sums[threadIdx.x] += other;",
        to: "        sums[threadIdx.x] += other;",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "keys are sorted without a barrier",
        file: "top_candidates.cu",
        from: "            __syncthreads();\n            for (uint32_t i = threadIdx.x; i < size / 2",
        to: "            for (uint32_t i = threadIdx.x; i < size / 2",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "keys are written before the last exchange",
        file: "top_candidates.cu",
        from: "        }\n    }\n    __syncthreads();\n}",
        to: "        }\n    }\n}",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "memory behind the candidates is sorted",
        file: "top_candidates.cu",
        from: "keys[i] = 0;",
        to: "(void)i;",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates,
    },
    Mutant {
        what: "NaN hides a candidate",
        file: "top_candidates.cu",
        from: "value == value ? value : -INFINITY",
        to: "value",
        kernels: &["top_candidates"],
        check: checks::candidates::candidates_beside_nan,
    },
    Mutant {
        what: "NaN comes before numbers where candidates are sorted",
        file: "top_candidates.cu",
        from: "value == value ? value : -INFINITY",
        to: "value",
        kernels: &["top_candidates"],
        check: checks::candidates::sorted_candidates_beside_nan,
    },
    Mutant {
        what: "equal logits come in another order",
        file: "top_candidates.cu",
        from: "a.id < b.id",
        to: "a.id > b.id",
        kernels: &["top_candidates"],
        check: checks::candidates::top_candidates,
    },
    Mutant {
        what: "gradients are scaled before they are added",
        file: "optimizer.cu",
        from: "[](float sum, float g, float) { return __fadd_rn(sum, g); }",
        to: "[](float sum, float g, float scale) { return __fadd_rn(sum, g * scale); }",
        kernels: &["optimizer"],
        check: checks::optimizer::added_gradients,
    },
    Mutant {
        what: "a step with an infinite norm is taken",
        file: "optimizer.cu",
        from: "if (!(a.result->norm < INFINITY)) return;",
        to: "if (!(a.result->norm <= INFINITY)) return;",
        kernels: &["optimizer"],
        check: checks::optimizer::not_finite,
    },
    Mutant {
        what: "a step whose norm is NaN is taken",
        file: "optimizer.cu",
        from: "if (!(a.result->norm < INFINITY)) return;",
        to: "if (a.result->norm >= INFINITY) return;",
        kernels: &["optimizer"],
        check: checks::optimizer::not_finite,
    },
    Mutant {
        what: "a step with an infinite loss is taken",
        file: "optimizer.cu",
        from: "fabs(a.loss_values[i]) < INFINITY",
        to: "a.loss_values[i] == a.loss_values[i]",
        kernels: &["optimizer"],
        check: checks::optimizer::not_finite,
    },
    Mutant {
        what: "only the first losses are tested",
        file: "optimizer.cu",
        from: "for (uint64_t i = 0; i < losses; ++i) finite",
        to: "for (uint64_t i = 0; i < THREADS && i < losses; ++i) finite",
        kernels: &["optimizer"],
        check: checks::optimizer::not_finite,
    },
    Mutant {
        what: "the losses beyond a block are not read",
        file: "optimizer.cu",
        from: "i < losses; i += THREADS)",
        to: "i < losses && i < THREADS; i += THREADS)",
        kernels: &["optimizer"],
        check: checks::optimizer::optimizer,
    },
    Mutant {
        what: "the norms of all tensors are added before all are there",
        file: "optimizer.cu",
        from: "        a.norms[tensor] = sqrt(sum);\n    }\n    __syncthreads();",
        to: "        a.norms[tensor] = sqrt(sum);\n    }",
        kernels: &["optimizer"],
        check: checks::optimizer::optimizer,
    },
    Mutant {
        what: "gradients are clipped by the norm before scaling",
        file: "optimizer.cu",
        from: "const double scaled = __fmul_rn(g, tensor.scale);",
        to: "const double scaled = g;",
        kernels: &["optimizer"],
        check: checks::optimizer::optimizer,
    },
    Mutant {
        what: "the gradient of quick GELU lacks its factor",
        file: "activation.cu",
        from: "u = 1.702f * x, slope = 1.702f;",
        to: "u = 1.702f * x;",
        kernels: &["activation"],
        check: checks::activation::activation,
    },
];

fn kernels_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Copies all kernels to `folder`.
fn copy_kernels(folder: &Path) {
    for part in ["", "host"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
        for entry in std::fs::read_dir(kernels_folder().join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, folder.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

/// Compiles kernels of `folder` to a shared library, with what `build.rs` passes as well.
fn compile(folder: &Path, kernels: &[&str]) -> PathBuf {
    let library = folder.join("kernels.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-w", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-shared", "-fPIC"])
        // The library's state must not be merged with that of the kernels in this program.
        .args(["-fno-gnu-unique", "-fvisibility=hidden", "-Wl,-Bsymbolic", "-xc++"])
        .args(kernels.iter().map(|kernel| folder.join(kernel).with_extension("cu")))
        .arg("-o")
        .arg(&library)
        .output()
        .expect("a C++ compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

fn open(library: &Path) -> Emulator {
    // SAFETY: the library is a copy of the kernels, whose arguments are unchanged.
    #[allow(unsafe_code)]
    unsafe { Emulator::open(library) }.unwrap()
}

/// Whether the check finds the fault.
fn is_found(mutant: &Mutant) -> bool {
    let folder = tempfile::tempdir().unwrap();
    copy_kernels(folder.path());
    let path = folder.path().join(mutant.file);
    let source = std::fs::read_to_string(&path).unwrap();
    let count = source.matches(mutant.from).count();
    assert_eq!(count, 1, "{}: {:?} must be once in {}", mutant.what, mutant.from, mutant.file);
    std::fs::write(&path, source.replace(mutant.from, mutant.to)).unwrap();
    let library = compile(folder.path(), mutant.kernels);
    (mutant.check)(&open(&library)).is_err()
}

#[test]
fn every_planted_fault_is_found() {
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Compilers work beside each other; the checks take turns.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = MUTANTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !is_found(mutant) {
                        missed.lock().unwrap().push(mutant.what);
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

/// The tests above find the planted fault, and not the way in which these kernels are compiled.
#[test]
fn unchanged_copies_pass() {
    let folder = tempfile::tempdir().unwrap();
    copy_kernels(folder.path());
    let mut kernels: Vec<&str> = MUTANTS.iter().flat_map(|mutant| mutant.kernels).copied().collect();
    kernels.sort_unstable();
    kernels.dedup();
    let emulator = open(&compile(folder.path(), &kernels));
    let mut checks: Vec<Check> = Vec::new();
    for mutant in MUTANTS {
        // Mutants of a kernel share their check.
        if !checks.iter().any(|check| std::ptr::fn_addr_eq(*check, mutant.check)) {
            checks.push(mutant.check);
        }
    }
    for check in checks {
        if let Err(error) = check(&emulator) {
            panic!("{error}");
        }
    }
}

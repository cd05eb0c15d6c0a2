//! Compiles `kernels/*.cu`: for the CPU with the feature `emulation`, to PTX with the feature `cuda`.

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    #[cfg(feature = "emulation")]
    emulation();
    #[cfg(feature = "cuda")]
    ptx();
}

#[cfg(feature = "emulation")]
fn emulation() {
    let mut build = cc::Build::new();
    // A host compiler does not know what .cu files hold.
    build.cpp(true).std("c++17").opt_level(2).flag("-xc++").flag("-Wno-unknown-pragmas");
    // Products and sums stay apart, as the tests expect; uninitialised variables are poisoned; `longjmp` between stacks is meant.
    build.flag("-ffp-contract=off").flag("-U_FORTIFY_SOURCE");
    build.flag_if_supported("-ftrivial-auto-var-init=pattern").flag_if_supported("-fcf-protection=none");
    let mut kernels: Vec<_> = std::fs::read_dir("kernels")
        .expect("the package holds its kernels")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    kernels.sort();
    // Kernels are found by a register that they enter themselves, so that nothing refers to them.
    build.files(kernels).link_lib_modifier("+whole-archive").compile("cuda_kernels_on_host");
}

#[cfg(feature = "cuda")]
const OLDEST: usize = 80;

#[cfg(feature = "cuda")]
fn ptx() {
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("set by Cargo"));
    // Tensor cores for bf16 need 8.0: with what is compiled for an older GPU, `device` leaves it to candle's operations.
    let generation = cudaforge::detect_compute_cap().map_or(OLDEST, |architecture| architecture.base());
    cudaforge::KernelBuilder::new()
        .compute_cap(generation.max(OLDEST))
        .source_dir("kernels")
        .arg("-O3")
        .arg("-std=c++17")
        .build_ptx()
        .and_then(|kernels| kernels.write(out.join("ptx.rs")))
        .expect("the kernels compile");
}

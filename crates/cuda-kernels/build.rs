//! Compiles `kernels/*.cu`: for the CPU with the feature `emulation`, to PTX with the feature `cuda`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=kernels");
    #[cfg(feature = "emulation")]
    emulation()?;
    #[cfg(feature = "cuda")]
    ptx()?;
    Ok(())
}

#[cfg(feature = "emulation")]
fn emulation() -> Result<(), Box<dyn Error>> {
    let mut build = cc::Build::new();
    // A host compiler does not know what .cu files hold.
    build.cpp(true).std("c++17").opt_level(2).flag("-xc++").flag("-Wno-unknown-pragmas");
    // Products and sums stay apart, as on the CPU; uninitialised variables are poisoned; `longjmp` between stacks is meant.
    build.flag("-ffp-contract=off").flag("-U_FORTIFY_SOURCE");
    build.flag_if_supported("-ftrivial-auto-var-init=pattern").flag_if_supported("-fcf-protection=none");
    let mut kernels = Vec::new();
    for entry in std::fs::read_dir("kernels")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            kernels.push(path);
        }
    }
    kernels.sort();
    // Kernels enter themselves in a register by name, so that nothing else refers to them.
    build.files(kernels).link_lib_modifier("+whole-archive").try_compile("cuda_kernels_on_host")?;
    Ok(())
}

/// Tensor cores for bf16 need compute capability 8.0. With kernels for a newer GPU than there is, `device` serves no tensor.
#[cfg(feature = "cuda")]
const OLDEST: usize = 80;

#[cfg(feature = "cuda")]
fn ptx() -> Result<(), Box<dyn Error>> {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let generation = cudaforge::detect_compute_cap().map_or(OLDEST, |architecture| architecture.base());
    let kernels = cudaforge::KernelBuilder::new()
        .compute_cap(generation.max(OLDEST))
        .source_dir("kernels")
        .arg("-O3")
        .arg("-std=c++17")
        .build_ptx()?;
    kernels.write(out.join("ptx.rs"))?;
    Ok(())
}

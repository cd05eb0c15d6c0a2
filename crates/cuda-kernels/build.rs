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

/// The PTX is for compute capability 8.0, the oldest with tensor cores for bf16, whatever the GPU of the building machine: the driver
/// compiles it for any newer GPU, and the kernels use nothing that came later. PTX for compute capability 9.0, as cudaforge would choose
/// beside an H100, does not load on any other GPU.
#[cfg(feature = "cuda")]
const TARGET: usize = 80;

#[cfg(feature = "cuda")]
fn ptx() -> Result<(), Box<dyn Error>> {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let kernels = cudaforge::KernelBuilder::new()
        .compute_cap(TARGET)
        .source_dir("kernels")
        // Cargo knows when a kernel or a header changed. Its own cache knows nothing of headers.
        .no_incremental()
        .arg("-O3")
        .arg("-std=c++17")
        .build_ptx()?;
    kernels.write(out.join("ptx.rs"))?;
    Ok(())
}

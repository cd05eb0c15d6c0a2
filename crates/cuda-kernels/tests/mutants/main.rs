//! Whether the checks would find faults: each of these is planted in a copy of the kernels, which is compiled and checked. A fault that
//! the checks do not find fails the test.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod arithmetic;
mod barriers;
mod bounds;
#[path = "../checks/mod.rs"]
mod checks;
mod masks;
#[path = "../reference/mod.rs"]
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

/// All planted faults.
fn mutants() -> impl Iterator<Item = &'static Mutant> {
    [barriers::MUTANTS, bounds::MUTANTS, masks::MUTANTS, arithmetic::MUTANTS].into_iter().flatten()
}

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
    let all: Vec<&Mutant> = mutants().collect();
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Compilers work beside each other; the checks take turns.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
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
    let mut kernels: Vec<&str> = mutants().flat_map(|mutant| mutant.kernels).copied().collect();
    kernels.sort_unstable();
    kernels.dedup();
    let emulator = open(&compile(folder.path(), &kernels));
    let mut checks: Vec<Check> = Vec::new();
    for mutant in mutants() {
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

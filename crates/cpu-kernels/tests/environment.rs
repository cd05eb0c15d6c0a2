//! The variable that selects the instruction set, in processes of their own: it is read once.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use cpu_kernels::{ISA_VARIABLE, Isa};

/// Runs the test `report` of this file with the variable set.
fn report_with(value: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "report", "--ignored", "--nocapture"])
        .env(ISA_VARIABLE, value)
        .output()
        .unwrap()
}

/// Not a test of its own: prints the active set, or why there is none.
#[test]
#[ignore = "run by the other tests"]
#[allow(clippy::print_stdout)]
fn report() {
    match Isa::active() {
        Ok(isa) => println!("active: {}", isa.name()),
        Err(error) => println!("error: {error}"),
    }
}

#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn the_variable_selects_the_set_of_the_process_and_refuses_others() {
    for isa in Isa::supported() {
        let output = String::from_utf8(report_with(isa.name()).stdout).unwrap();
        assert!(output.contains(&format!("active: {}\n", isa.name())), "{output}");
    }
    let output = String::from_utf8(report_with("avx9").stdout).unwrap();
    assert!(output.contains("error: CPU_KERNELS_ISA=avx9:"), "{output}");
}

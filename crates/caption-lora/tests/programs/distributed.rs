//! Programs that were launched as one of several processes, but were built without MPI.

use std::process::Command;

use crate::common::programs::{program, run};

/// The program as process `rank` of 4 of Open MPI's mpirun.
fn launched(rank: &str, arguments: &str) -> Command {
    let mut command = program();
    command.env("OMPI_COMM_WORLD_RANK", rank).env("OMPI_COMM_WORLD_SIZE", "4");
    command.args(arguments.split_whitespace());
    command
}

#[test]
#[cfg(not(feature = "mpi"))]
fn a_launched_job_without_mpi_is_refused_and_only_the_first_process_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = run(launched("0", "finetune --output-dir run").current_dir(folder.path())).refusal(1);
    assert!(refusal.contains("number 1 of 4") && refusal.contains("--features mpi"), "{refusal}");
    assert!(refusal.contains("--distributed none"), "{refusal}");
    let other = run(launched("1", "finetune --output-dir run").current_dir(folder.path()));
    assert_eq!((other.code, other.stderr.as_str(), other.stdout.as_str()), (Some(1), "", ""));
    assert!(!folder.path().join("run").exists());

    let asked =
        run(program().args(["finetune", "--distributed", "mpi"]).current_dir(folder.path())).refusal(1);
    assert!(asked.contains("--distributed mpi") && asked.contains("--features mpi"), "{asked}");
}

#[test]
fn help_and_errors_of_the_command_line_are_printed_by_the_first_process() {
    let said = |rank: &str, arguments: &str| run(&mut launched(rank, arguments));
    assert!(said("0", "finetune --help").stdout().contains("--distributed"));
    assert!(said("0", "finetune --rank 3").refusal(2).contains("--lora-r"));
    for arguments in ["finetune --help", "finetune --rank 3"] {
        let other = said("3", arguments);
        assert_eq!((other.stdout.as_str(), other.stderr.as_str()), ("", ""), "{arguments}");
    }
}

#[test]
fn launched_processes_train_alone_with_distributed_none() {
    let folder = tempfile::tempdir().unwrap();
    let flags = "finetune --distributed none --max-steps 1 --subset 20 --eval-strategy no --output-dir run";
    let said = run(launched("2", flags).current_dir(folder.path())).stdout();
    assert!(said.contains("written to run") && !said.contains("workers"), "{said}");
    // It is a choice for one command, and no property of the run.
    let saved = std::fs::read_to_string(folder.path().join("run/run.json")).unwrap();
    assert!(!saved.contains("\"distributed\""), "{saved}");
}

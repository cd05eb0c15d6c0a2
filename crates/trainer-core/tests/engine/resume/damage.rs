//! Damaged checkpoints are noticed and skipped.

use super::*;

/// A finished run with checkpoints 3, 6 and 9, of which the newest is then damaged.
fn damaged(damage: impl Fn(&Path)) -> (tempfile::TempDir, TrainingArguments) {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    train(&arguments, None, None).unwrap();
    damage(&directory.path().join("checkpoint-9"));
    (directory, arguments)
}

fn lose_a_file(checkpoint: &Path) {
    fs::remove_file(checkpoint.join("trainer_state.json")).unwrap();
}

#[test]
fn a_damaged_newest_checkpoint_is_skipped_with_the_reason() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 4] = [
        (truncate, "optimizer.safetensors has"),
        (flip_a_bit, "parameters.safetensors does not have the checksum"),
        (unfinish, "never finished"),
        (lose_a_file, "trainer_state.json"),
    ];
    for (damage, expected) in cases {
        let (directory, arguments) = damaged(damage);
        let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
        let warnings = resumed.warnings();
        let [Warning::CheckpointSkipped { path, reason }] = warnings[..] else { panic!("{warnings:?}") };
        assert_eq!(path, &directory.path().join("checkpoint-9"));
        assert!(reason.contains(expected), "{reason}");
        let from = PathBuf::from("checkpoint-6");
        assert!(resumed.events.iter().any(
            |event| matches!(event, Event::Resumed { checkpoint, global_step: 6 } if checkpoint.ends_with(&from))
        ));
        assert_eq!(resumed.outcome.state().global_step, 9);
    }
}

/// In every file, the manifest included: a flipped bit in the first, middle and last byte, and a truncation to half.
#[test]
fn no_damage_to_any_file_goes_unnoticed() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    let whole = train(&arguments, None, None).unwrap();
    let newest = directory.path().join("checkpoint-9");
    let read = |name: &str| fs::read(newest.join(name)).unwrap();
    let names: Vec<_> = fs::read_dir(&newest)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let intact: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), read(name))).collect();
    assert_eq!(intact.len(), 6);
    for (name, bytes) in &intact {
        let flipped = [0, bytes.len() / 2, bytes.len() - 1].map(|place| {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            bytes
        });
        for damaged in flipped.into_iter().chain([bytes[..bytes.len() / 2].to_vec()]) {
            // The run before has saved the checkpoint again.
            for (name, bytes) in &intact {
                fs::write(newest.join(name), bytes).unwrap();
            }
            fs::write(newest.join(name), damaged).unwrap();
            let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
            let [Warning::CheckpointSkipped { path, .. }] = resumed.warnings()[..] else { panic!("{name}") };
            assert_eq!(path, &newest);
            assert_eq!(resumed.bits(), whole.bits(), "{name}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_that_is_named_is_an_error() {
    let (directory, arguments) = damaged(truncate);
    let named = directory.path().join("checkpoint-9");
    let Err(Error::Checkpoint { path, reason }) = train(&arguments, Some(Resume::From(named.clone())), None)
    else {
        panic!("resumed from a damaged checkpoint")
    };
    assert_eq!(path, named);
    assert!(reason.contains("optimizer.safetensors has"), "{reason}");
}

#[test]
fn without_a_usable_checkpoint_the_error_lists_the_damaged_ones() {
    let directory = tempfile::tempdir().unwrap();
    let error = train(&arguments(directory.path()), Some(Resume::Newest), None).err().unwrap();
    assert!(matches!(error, Error::NoCheckpoint { .. }), "{error}");

    let (directory, arguments) = damaged(truncate);
    for step in [3, 6] {
        fs::remove_dir_all(directory.path().join(format!("checkpoint-{step}"))).unwrap();
    }
    let error = train(&arguments, Some(Resume::Newest), None).err().unwrap().to_string();
    assert!(error.contains("checkpoint-9") && error.contains("optimizer.safetensors has"), "{error}");
}
